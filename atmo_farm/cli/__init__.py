"""The command line: one file per verb group; `main` is the `atmo-farm` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line of this process; never returns."""
    open_standard_streams()
    from atmo_farm.cli.app import cli

    cli.main(prog_name="atmo-farm")


def open_standard_streams() -> None:
    """What is closed of the three leads to /dev/null from here on.

    Else the next file or socket would get the number that libraries write their errors to.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode))
