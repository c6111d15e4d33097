"""`atmo-farm dlq list|show|replay|purge`: the dead letters of a handler of a running farm."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from atmo_farm.cli import letters
from atmo_farm.cli.dlq_options import CODES, args_of, how, say_progress, which
from atmo_farm.cli.farm import farm_options, find
from atmo_farm.cli.session import say, verb_settings
from atmo_farm.cli.status import table
from atmo_farm.cli.types import Text

COLUMNS = ("id", "when", "origin", "cause", "code", "attempts", "replays", "size", "text")
NUMBERS = ("attempts", "replays", "size")

SHOWN = 16 << 10
"""Bytes of a payload on a terminal."""


@click.group(cls=click.Group, **verb_settings)
def dlq() -> None:
    """Read, replay and purge the dead letters of a handler.

    A message that cannot be processed becomes a dead letter: docs/dead-letters.md.
    """


@dlq.command(
    "list",
    **verb_settings,
    epilog=CODES
    + """

\b
Examples:
  atmo-farm dlq list orders
  atmo-farm dlq list orders --since 24h --match cause=timeout
  atmo-farm dlq list orders --limit 100000 --json | jq -r .id""",
)
@click.argument("handler")
@which
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each letter.")
@farm_options
def list_(
    handler: str, match: tuple[str, ...], since: float | None, limit: int | None, as_json: bool, **flags: Any
) -> None:
    """List dead letters, the oldest first; 100 without --limit."""
    rows: list[list[str]] = []

    def told(progress: Mapping[str, Any]) -> None:
        letter = progress.get("letter")
        if letter is None:
            say_progress(progress)
        elif as_json:
            click.echo(json.dumps(letter))
        else:
            rows.append([letters.cell(letter[name]) for name in COLUMNS])

    with find(**flags).connect() as farm:
        result = farm.ask("dlq.list", args_of(handler, match=list(match), since=since, limit=limit), told)
    if rows:
        for line in table([list(COLUMNS), *rows], [COLUMNS.index(name) for name in NUMBERS]):
            click.echo(line)
    if not result["letters"]:
        say(f"{handler} has no dead letters" + (" of these" if match or since is not None else ""))
    elif result["more"]:
        say("there are more: --limit says how many are listed")


@dlq.command(
    **verb_settings,
    epilog=CODES
    + """

\b
Examples:
  atmo-farm dlq show orders 12
  atmo-farm dlq show orders 12 --raw > message.bin""",
)
@click.argument("handler")
@click.argument("letter", metavar="ID")
@click.option("--raw", is_flag=True, help="Write the payload's bytes and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@farm_options
def show(handler: str, letter: str, raw: bool, as_json: bool, **flags: Any) -> None:
    """Print one dead letter: what is known of its end, the headers and the payload."""
    if raw and as_json:
        raise click.UsageError("--raw and --json exclude each other")
    payload = bytearray()

    def told(progress: Mapping[str, Any]) -> None:
        chunk = base64.b64decode(progress.get("payload", ""))
        if "note" in progress:
            say_progress(progress)
        elif raw:
            sys.stdout.buffer.write(chunk)
        else:
            payload.extend(chunk)

    with find(**flags).connect() as farm:
        wanted = None if raw or as_json else SHOWN
        found = farm.ask("dlq.show", args_of(handler, letter=letter, payload=wanted), told)
    if raw:
        sys.stdout.buffer.flush()
    elif as_json:
        click.echo(json.dumps({**found, **letters.as_json(bytes(payload))}, indent=2))
    else:
        for line in letters.shown(found, bytes(payload)):
            click.echo(line)


@dlq.command(
    **verb_settings,
    epilog=CODES
    + """

\b
Examples:
  atmo-farm dlq replay orders 12
  atmo-farm dlq replay orders --match cause=datasource --rate 50/s
  atmo-farm dlq replay orders --since 2h --to orders.retry --dry-run""",
)
@click.argument("handler")
@click.argument("letter", metavar="[ID]", required=False, type=Text())
@which
@how
@click.option("--to", type=Text(), metavar="SUBJECT", help="Publish there.  [default: where each came from]")
@click.option(
    "--max-replays",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Pass over what was replayed so often.",
)
@farm_options
def replay(
    handler: str,
    letter: str | None,
    match: tuple[str, ...],
    since: float | None,
    limit: int | None,
    rate: float | None,
    dry_run: bool,
    to: str | None,
    max_replays: int,
    **flags: Any,
) -> None:
    """Publish dead letters again, all of them or those that are meant, and remove each that was accepted."""
    _check_one(letter, match, since, limit)
    args = args_of(
        handler, letter=letter, match=list(match), since=since, limit=limit, rate=rate, dry_run=dry_run, to=to,
        max_replays=max_replays,
    )  # fmt: skip
    with find(**flags).connect() as farm:
        counts = farm.ask("dlq.replay", args, say_progress)
    click.echo(_summary("would be replayed" if dry_run else "replayed", counts))


@dlq.command(
    **verb_settings,
    epilog=CODES
    + """

\b
Examples:
  atmo-farm dlq purge orders 12
  atmo-farm dlq purge orders --match 'text=*no such user*'
  atmo-farm dlq purge orders --all""",
)
@click.argument("handler")
@click.argument("letter", metavar="[ID]", required=False, type=Text())
@which
@how
@click.option("--all", "everything", is_flag=True, help="All that there are.")
@farm_options
def purge(
    handler: str,
    letter: str | None,
    match: tuple[str, ...],
    since: float | None,
    limit: int | None,
    rate: float | None,
    dry_run: bool,
    everything: bool,
    **flags: Any,
) -> None:
    """Remove dead letters for ever."""
    _check_one(letter, match, since, limit)
    if not (letter or match or since is not None or limit or everything):
        raise click.UsageError("say which: an ID, --match, --since, --limit, or --all")
    args = args_of(handler, letter=letter, match=list(match), since=since, limit=limit, rate=rate, dry_run=dry_run)
    with find(**flags).connect() as farm:
        counts = farm.ask("dlq.purge", args, say_progress)
    click.echo(_summary("would be purged" if dry_run else "purged", counts))


def _check_one(letter: str | None, match: tuple[str, ...], since: float | None, limit: int | None) -> None:
    if letter and (match or since is not None or limit):
        raise click.UsageError("an ID is one letter; --match, --since and --limit are for several")


def _summary(done: str, counts: Mapping[str, int]) -> str:
    words = [f"{counts['done']} {done}"]
    for key, text in (
        ("passed_over", "passed over, replayed too often"),
        ("failed", "could not be sent"),
        ("gone", "were gone"),
    ):
        if counts[key]:
            words.append(f"{counts[key]} {text}")
    return ", ".join(words)
