"""The command line: one file per verb group; `main` is the `atmo-farm` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process; never returns."""
    from atmo_farm.cli.app import cli

    cli.main(prog_name="atmo-farm")
