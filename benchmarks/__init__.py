"""Benchmarks of the farm, each paired with its baseline in the same run: `python -m benchmarks NAME`."""
