"""What `scripts/demo` runs once the farm is installed."""
