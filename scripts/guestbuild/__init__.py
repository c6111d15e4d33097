"""Builds the Wasm modules of tests/guests and examples/ (`scripts/guests`). Standard library only."""
