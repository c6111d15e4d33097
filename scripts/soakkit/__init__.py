"""The long form of the fault tests: `scripts/soak`."""
