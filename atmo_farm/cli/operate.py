"""`atmo-farm reload`, `stop` and `loglevel`: what the master of a running farm does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from atmo_farm import clock, log
from atmo_farm.cli.farm import LOOK_S, RunningFarm, farm_options, find
from atmo_farm.cli.session import exit_codes, say, verb_settings
from atmo_farm.cli.types import Seconds
from atmo_farm.errors import NotFound, TimedOut
from atmo_farm.ipc.control import ConnectionLost, Told
from atmo_farm.log.lines import escape

timeout_option = click.option(
    "--timeout",
    type=Seconds(),
    metavar="S",
    help="Wait no longer than this; it goes on all the same.  [default: as long as it takes]",
)


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 2, 4, 5, 70, _5="refused, rolled back, or timed out")
    + """

\b
Examples:
  atmo-farm reload
  atmo-farm reload --wait --app com.example.shop""",
)
@click.option("--wait", is_flag=True, help="Say how far it is, and end with its result.")
@timeout_option
@farm_options
def reload(wait: bool, timeout: float | None, **flags: Any) -> None:
    """Have a running farm read its application again.

    It changes only what is different, and nothing at all when there is any problem.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait")
    with find(**flags).connect() as farm:
        try:
            result = farm.ask("reload", {"wait": wait}, say_stage, deadline(timeout))
        except ConnectionLost as error:
            raise TimedOut(f"{error}; a reload that has begun goes on, `atmo-farm status` tells how it ends") from error
    in_force = f"generation {result['generation']} is in force: {escape(result['changes'])}" if wait else ""
    click.echo(in_force or "reload asked for")


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 2, 4, 5, 70)
    + """

\b
Examples:
  atmo-farm stop
  atmo-farm stop --run-dir /run/atmo-farm/main --timeout 60""",
)
@timeout_option
@farm_options
def stop(timeout: float | None, **flags: Any) -> None:
    """Have a running farm finish what it holds, and wait for its end."""
    farm = find(**flags)
    pid, until = farm.pid, deadline(timeout)
    left: dict[str, int] = {}

    def told(progress: Mapping[str, Any]) -> None:
        if progress["left"].keys() != left.keys() and progress["left"]:
            say(f"waiting for {names(progress['left'])}")
        left.clear()
        left.update(progress["left"])

    try:
        _ask_to_stop(farm, told, until)
    except TimedOut as error:
        if left:
            raise TimedOut(f"not ended in time; left: {names(left)}") from error
        raise
    _wait_for_end(farm, pid, until)
    click.echo("stopped")


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 2, 4, 5, 70)
    + """

\b
Examples:
  atmo-farm loglevel debug
  atmo-farm loglevel info --app com.example.shop""",
)
@click.argument("level", type=click.Choice(list(log.LEVELS)))
@farm_options
def loglevel(level: str, **flags: Any) -> None:
    """Have all processes of a running farm log from LEVEL up, until it ends."""
    with find(**flags).connect() as farm:
        result = farm.ask("loglevel", {"level": level})
    click.echo(f"log level {result['level']}")


def names(left: Mapping[str, int]) -> str:
    """Who is waited for, and for how many messages of theirs."""
    return ", ".join(f"{name} ({in_flight} in flight)" if in_flight else name for name, in_flight in left.items())


def _ask_to_stop(farm: RunningFarm, told: Told, deadline: float | None) -> None:
    """Return when the farm ends. A monitor that went away may not have passed it on: the next one is asked again."""
    lost = False
    while True:
        try:
            client = farm.connect()
        except (NotFound, TimedOut):
            if lost:  # it ends, and its monitor has ended before it
                return
            raise
        try:
            with client:
                client.ask("stop", {}, told, deadline)
                return
        except ConnectionLost:
            lost = True


def _wait_for_end(farm: RunningFarm, pid: int | None, deadline: float | None) -> None:
    """Of this master: one that is started in the same folder meanwhile is another farm."""
    while pid is not None and farm.pid == pid:
        if deadline is not None and clock.monotonic() >= deadline:
            raise TimedOut(f"not ended in time; left: the master, pid {pid}")
        time.sleep(LOOK_S)


def deadline(timeout_s: float | None) -> float | None:
    """clock.monotonic() second."""
    return None if timeout_s is None else clock.monotonic() + timeout_s


def say_stage(progress: Mapping[str, Any]) -> None:
    """One line for each progress of a reload, or of another change of workers."""
    stage = progress.get("stage")
    if "problem" in progress:
        say(escape(progress["problem"]))
    elif "warning" in progress:
        say(escape(progress["warning"]))
    elif stage == "checking":
        say("checking the application")
    elif stage == "accepted":
        say(f"generation {progress['generation']} accepted: {escape(progress['changes'])}")
    elif stage in ("restarting", "scaling"):
        say(f"{stage}: {progress['starting']} to start, {progress['ending']} to end")
    elif stage == "draining" and progress["draining"]:
        say("the old ones drain")
    elif stage == "starting":
        say(f"starting: {progress['up']} of {progress['of']} up")
    elif stage == "in force":
        say(f"generation {progress['generation']} in force" + (", the old ones drain" if progress["draining"] else ""))
    elif stage == "rolling back":
        say(f"rolling back: {escape(progress['reason'])}")
