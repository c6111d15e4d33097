"""`atmo-farm status`: what a running farm does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import click

from atmo_farm import clock
from atmo_farm.cli.farm import farm_options, wait_for
from atmo_farm.cli.session import exit_codes, say, verb_settings
from atmo_farm.cli.types import Seconds
from atmo_farm.errors import TimedOut
from atmo_farm.ipc.control import ConnectionLost, Told

WAIT_S = 60.0

LOST = 3
"""So many monitors are asked, if each one ends before it has answered."""

COLUMNS: Mapping[str, str] = {
    "in flight": "in_flight",
    "received": "received",
    "ok": "ok",
    "failed": "failed",
    "retried": "retried",
    "dead": "dead",
    "dropped": "dropped",
    "restarts": "restarts",
}
"""Those with numbers: heading → key of the report."""


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 2, 4, 5, 70)
    + """

\b
Examples:
  atmo-farm status
  atmo-farm status --app com.example.shop --json | jq .farm.state
  atmo-farm status --wait ready --timeout 30""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--wait", type=click.Choice(["ready"]), help="Print it as soon as all handlers are ready.")
@click.option("--timeout", type=Seconds(), metavar="S", help=f"How long --wait waits.  [default: {WAIT_S:g}]")
@farm_options
def status(as_json: bool, wait: str | None, timeout: float | None, **flags: Any) -> None:
    """Print what a running farm does.

    With --wait a farm that is not there yet is waited for as well.
    """
    if timeout is not None and wait is None:
        raise click.UsageError("--timeout is for --wait")
    deadline = clock.monotonic() + (WAIT_S if timeout is None else timeout) if wait else None
    reasons: list[str] = []

    def told(progress: Mapping[str, Any]) -> None:
        reasons[:] = progress["not_ready"]

    try:
        report = _ask(flags, {"wait": wait} if wait else {}, told, deadline)
    except TimedOut as error:
        if reasons:
            raise TimedOut("not ready in time: " + "; ".join(reasons)) from error
        raise
    if as_json:
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for line in _shown(report):
        click.echo(line)
    if report["farm"]["state"] == "silent":
        say(f"the master gave no sign of life for {report['farm']['master_silent_s']:.0f} s")


def _ask(flags: Mapping[str, Any], args: Mapping[str, Any], told: Told, deadline: float | None) -> dict[str, Any]:
    """The report; a monitor that is replaced meanwhile is asked again."""
    for _ in range(LOST):
        with wait_for(flags, deadline) as farm, contextlib.suppress(ConnectionLost):
            return farm.ask("status", args, told, deadline)
    raise TimedOut("the farm's monitor went away again and again; its log says why")


def _shown(report: Mapping[str, Any]) -> list[str]:
    farm = report["farm"]
    head = (
        f"{farm['app']} {farm['app_version']}: {farm['state']}, generation {farm['generation']}, "
        f"{farm['ready']} of {farm['wanted']} ready, pid {farm['pid']}, up {_duration(farm['uptime_s'])}"
    )
    rows = [["handler", "state", "ready", *COLUMNS, "waits for"]]
    for entry in [*report["handlers"], *report["processes"]]:
        if entry["kind"] == "monitor":
            continue
        counted = COLUMNS.values() if entry["kind"] == "consumer" else ("restarts",)
        numbers = [str(entry.get(key, 0)) if key in counted else "-" for key in COLUMNS.values()]
        why = entry["waits_for"] or entry["failure"]
        scaled = f" (scaled from {entry['scaled_from']})" if entry["scaled_from"] else ""
        rows.append([entry["name"], entry["state"] + scaled, f"{entry['ready']}/{entry['wanted']}", *numbers, why])
    return [head, *([farm["note"]] if farm["note"] else []), *table(rows, range(3, len(COLUMNS) + 3))]


def table(rows: Sequence[Sequence[str]], numbers: Collection[int]) -> list[str]:
    """Aligned: texts to the left, columns of numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _duration(seconds: float) -> str:
    """`12s`, `3m 5s`, `2h 7m`, `5d 3h`: the two largest units."""
    parts, left = [], int(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
