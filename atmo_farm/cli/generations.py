"""`atmo-farm history` and `rollback`: the generations of a running farm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from atmo_farm.cli.farm import farm_options, find
from atmo_farm.cli.operate import deadline, say_stage, timeout_option
from atmo_farm.cli.session import exit_codes, verb_settings
from atmo_farm.cli.status import table
from atmo_farm.errors import TimedOut
from atmo_farm.ipc.control import ConnectionLost
from atmo_farm.log.lines import escape

HEAD = ("generation", "since", "cause", "state", "changes")


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 2, 4, 5, 70)
    + """

\b
Examples:
  atmo-farm history
  atmo-farm history --json | jq 'map(select(.kept).generation)'""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
@farm_options
def history(as_json: bool, **flags: Any) -> None:
    """Print which generations of the application a farm has had, the newest first.

    A generation that is `kept` is one that a rollback can go back to.
    """
    found: list[Mapping[str, Any]] = []
    with find(**flags).connect() as farm:
        in_force = farm.ask("history", {}, lambda told: found.append(told["generation"]))["in_force"]
    if as_json:
        shown = [{**record, "in_force": record["generation"] == in_force} for record in found]
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    for line in table([HEAD, *(_row(record, in_force) for record in found)], {0}):
        click.echo(line)


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 2, 4, 5, 70, _5="refused, taken back, or timed out")
    + """

\b
Examples:
  atmo-farm rollback                 to the generation before
  atmo-farm rollback 12              `atmo-farm history` lists them""",
)
@click.argument("generation", type=click.IntRange(1), required=False)
@timeout_option
@farm_options
def rollback(generation: int | None, timeout: float | None, **flags: Any) -> None:
    """Have a running farm go back to an older generation of its application.

    What the farm has kept is run, modules and Directive, whatever the folder or bundle holds now; references such as
    env(NAME) are resolved anew. It is a reload like any other, and it holds until the next one, also when the farm is
    started anew.
    """
    with find(**flags).connect() as farm:
        try:
            result = farm.ask("rollback", {"generation": generation or 0}, say_stage, deadline(timeout))
        except ConnectionLost as error:
            raise TimedOut(f"{error}; a rollback that has begun goes on, `atmo-farm history` tells") from error
    click.echo(f"generation {result['generation']} is in force: {escape(result['changes'])}")


def _row(record: Mapping[str, Any], in_force: int) -> list[str]:
    states = (
        "in force" if record["generation"] == in_force else "",
        f"repeats {record['repeats']}" if "repeats" in record else "",
        "refused" if "refused" in record else "",
        "kept" if record["kept"] else "",
    )
    why = record.get("refused") or record.get("changes", "")
    texts = (record.get("time", ""), record.get("cause", ""), ", ".join(filter(None, states)), escape(why))
    return [str(record["generation"]), *texts]
