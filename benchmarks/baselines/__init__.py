"""What the farm is measured against: the same work without the farm."""
