"""What host functions do, behind `runtime.services`."""
