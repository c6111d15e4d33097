"""`python -m atmo_farm` is the `atmo-farm` command."""

from atmo_farm.cli import main

if __name__ == "__main__":
    main()
