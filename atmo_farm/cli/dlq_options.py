"""What the verbs of `dlq` share: which letters are meant, how fast, and what is said meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from atmo_farm.cli.session import F, exit_codes, say
from atmo_farm.cli.types import Rate, Since, Text
from atmo_farm.log.lines import escape

CODES = exit_codes(0, 2, 4, 5, 70, _4="no such farm, handler or letter", _5="the broker is out of reach, or timed out")


def which(function: F) -> F:
    """The options that say which letters are meant."""
    options = (
        click.option(
            "--match",
            type=Text(),
            multiple=True,
            metavar="TEXT|FIELD=PATTERN",
            help="Only those that hold TEXT, or of which FIELD is PATTERN, with * and ?. FIELD: id (the letter's), "
            "message (the message's id), origin, cause, code, text, function. May be repeated: all must hold.",
        ),
        click.option("--since", type=Since(), metavar="DURATION|TIME", help="Only those that are not older: 30m, 24h."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many, the oldest first."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def how(function: F) -> F:
    """The options of what takes its time."""
    options = (
        click.option("--rate", type=Rate(), metavar="N/s", help="At most so many letters in a second.  [default: any]"),
        click.option("--dry-run", is_flag=True, help="Only say how many they are."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def args_of(handler: str, **keys: Any) -> dict[str, Any]:
    """A request of what was given."""
    return {"handler": handler, **{name: value for name, value in keys.items() if value is not None}}


def say_progress(progress: Mapping[str, Any]) -> None:
    """One line, if it is for people."""
    if "note" in progress:
        say(escape(progress["note"]))
    elif "replays" in progress:
        say(f"{progress['passed_over']} is passed over: it was replayed {progress['replays']} times")
    elif "reason" in progress:
        say(f"{progress['failed']} stays: {escape(progress['reason'])}")
    elif "done" in progress:
        say(f"{progress['done']} letters done")
