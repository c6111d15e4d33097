"""The farm's own identity: random, kept in the state folder, so that two farms of one application can be told apart."""

from __future__ import annotations

import secrets
from pathlib import Path

NAME = "instance-id"


def identity(state: Path) -> str:
    """The id of this state folder, 16 hexadecimal digits; made when it is not there yet."""
    path = state / NAME
    try:
        return path.read_text().strip() or _make(path)
    except FileNotFoundError:
        return _make(path)


def _make(path: Path) -> str:
    made = secrets.token_hex(8)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(f"{made}\n")
    unfinished.rename(path)
    return made
