"""The tests of atmo-farm; see README.md here for what each folder proves."""
