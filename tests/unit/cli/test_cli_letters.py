"""Dead letters on a terminal."""

from __future__ import annotations

from typing import Any

from atmo_farm.cli.letters import shown

LETTER: dict[str, Any] = {"id": "1", "replays": 0, "told": {}, "headers": []}


def test_nothing_is_obeyed() -> None:
    """Whatever a sender has called its headers."""
    lines = shown({**LETTER, "told": {"\x1b[2J": "\x1b"}, "headers": [["\x1b]0;", "\x9b"]], "size": 1}, b"\x07")
    assert all(line.isprintable() for line in lines)


def test_a_text_that_is_cut_is_a_text() -> None:
    """Also in the middle of a character."""
    assert shown({**LETTER, "size": 6}, "€€".encode()[:4])[-2] == "€"
    assert shown({**LETTER, "size": 4}, "€€".encode()[:4])[-1].startswith("00000000  e2 82 ac e2")
