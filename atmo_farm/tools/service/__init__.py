"""The job behind `atmo-farm install-service`: a systemd unit, and what it reads."""
