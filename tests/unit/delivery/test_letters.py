"""What a dead letter says of itself, and which letters a `--match` means."""

from __future__ import annotations

import pytest

from atmo_farm.delivery.letters import Letter, Match
from atmo_farm.streams.base import Kept

HEADERS = (
    ("Content-Type", "text/plain"),
    ("Atmo-Dead-Id", "7f"),
    ("Atmo-Dead-Origin", "orders.eu.new"),
    ("atmo-dead-cause", "error"),
    ("Atmo-Dead-Code", "404"),
    ("Atmo-Dead-Text", "No such user"),
    ("Atmo-Dead-Attempts", "5"),
    ("atmo-replays", "2"),
    ("Atmo-Replay-For", "a.h"),
)


def letter(*more: tuple[str, str]) -> Letter:
    return Letter(Kept("12", "key", (*HEADERS, *more), 3, 0.0))


def test_what_it_says_and_what_the_original_said() -> None:
    """Its own headers and the replay count are told apart from the original's, however they are written."""
    found = letter()
    assert found.told["cause"] == "error"
    assert found.original == (("Content-Type", "text/plain"),)
    assert found.replays == 2
    assert found.summary()["attempts"] == 5


@pytest.mark.parametrize("count", ["", "many", "-1", "9" * 400, "²"])
def test_a_count_that_is_none(count: str) -> None:
    """A sender may write anything."""
    summary = Letter(Kept("1", "", (("Atmo-Replays", count), ("Atmo-Dead-Attempts", count)), 0, 0.0)).summary()
    assert (summary["attempts"], summary["replays"]) == (0, 0)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("such user", True),
        ("NO SUCH", True),
        ("404", True),
        ("40", True),
        ("nothing", False),
        ("code=404", True),
        ("code=40", False),
        ("code=4*", True),
        ("cause=error", True),
        ("Cause = ERROR", True),
        ("origin=orders.*", True),
        ("origin=orders", False),
        ("text=*such*", True),
        ("message=7f", True),
        ("id=7f", False),
        ("id=1*", True),
        ("content=plain", False),
        ("[", False),
        ("text=[", False),
        ("text=" + "*a" * 200, False),
    ],
)
def test_match(text: str, matches: bool) -> None:
    """A text anywhere, or a field's pattern; what is no field is a text."""
    assert Match(text)(letter()) is matches
