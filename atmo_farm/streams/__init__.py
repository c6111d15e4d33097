"""Where messages come from and go to: the seam `base` and one file for each broker."""
