"""The farm's own identity: random, kept in the state folder, so that two farms of one application can be told apart."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from atmo_farm.errors import CannotStart

NAME = "instance-id"


def identity(state: Path) -> str:
    """The id of this state folder, 16 hexadecimal digits; made when it is not there yet, or is none.

    CannotStart if it can be neither read nor kept.
    """
    path = state / NAME
    try:
        found = re.fullmatch(rb"([0-9a-f]{16})\n?", path.read_bytes()) if path.exists() else None
        return found[1].decode() if found else _make(path)
    except OSError as error:
        raise CannotStart(f"{path} cannot be used: {error.strerror}; name another folder with --state-dir") from error


def _make(path: Path) -> str:
    made = secrets.token_hex(8)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(f"{made}\n")
    unfinished.rename(path)
    return made
