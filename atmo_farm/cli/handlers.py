"""`atmo-farm restart`, `scale`, `pause`, `resume` and `drain`: the workers of one handler of a running farm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from atmo_farm.cli.farm import farm_options, find
from atmo_farm.cli.operate import deadline, names, say_stage, timeout_option
from atmo_farm.cli.session import exit_codes, say, verb_settings
from atmo_farm.errors import TimedOut
from atmo_farm.ipc.control import ConnectionLost
from atmo_farm.log.lines import escape

handler_argument = click.argument("handler")

CODES = exit_codes(0, 2, 4, 5, 70, _5="taken back, turned by somebody else meanwhile, or timed out")


def _epilog(*examples: str) -> str:
    return CODES + "\n\n\b\nExamples:\n" + "\n".join(f"  atmo-farm {example}" for example in examples)


@click.command(**verb_settings, epilog=_epilog("restart orders", "restart orders --timeout 60"))
@handler_argument
@timeout_option
@farm_options
def restart(handler: str, timeout: float | None, **flags: Any) -> None:
    """Give a handler's workers new processes.

    As in a reload the old ones drain when the new ones are ready, and stay if these do not get ready. The application
    is not read again.
    """
    result = _ask(flags, "restart", handler, timeout)
    click.echo(f"restarted {escape(result['changes'])}")


@click.command(**verb_settings, epilog=_epilog("scale orders 4"))
@handler_argument
@click.argument("workers", type=click.IntRange(1, 1000))
@timeout_option
@farm_options
def scale(handler: str, workers: int, timeout: float | None, **flags: Any) -> None:
    """Give a handler so many workers.

    It lasts until a reload that changes `workers` of the handler, or the end of the farm.
    """
    result = _ask(flags, "scale", handler, timeout, workers=workers)
    click.echo(f"scaled {escape(result['changes'])}")


@click.command(**verb_settings, epilog=_epilog("pause orders"))
@handler_argument
@timeout_option
@farm_options
def pause(handler: str, timeout: float | None, **flags: Any) -> None:
    """Have a handler take no new message; what it has in hand finishes.

    JetStream and Kafka keep its messages until `resume`. On core NATS it leaves its queue group: what is sent meanwhile
    goes to other members, or is lost. A pause survives reloads and deaths of processes, not the farm's end. Health
    checks pass over a paused handler.
    """
    _turn(flags, "pause", handler, timeout, "paused")


@click.command(**verb_settings, epilog=_epilog("resume orders"))
@handler_argument
@timeout_option
@farm_options
def resume(handler: str, timeout: float | None, **flags: Any) -> None:
    """Have a paused handler take messages again."""
    _turn(flags, "resume", handler, timeout, "resumed")


@click.command(**verb_settings, epilog=_epilog("drain orders --timeout 60", "resume orders"))
@handler_argument
@timeout_option
@farm_options
def drain(handler: str, timeout: float | None, **flags: Any) -> None:
    """Pause a handler, and wait until it has nothing in hand any more.

    Its processes stay; `resume` ends the pause.
    """
    _turn(flags, "drain", handler, timeout, "drained")


def _turn(flags: Mapping[str, Any], verb: str, handler: str, timeout: float | None, done: str) -> None:
    result = _ask(flags, verb, handler, timeout)
    if not result["kept"] and verb != "resume":
        say("core NATS keeps no messages: what is sent meanwhile goes to other members or is lost", level="warn")
    click.echo(f"{done} {handler}" if result["changed"] or verb == "drain" else f"{handler} was {done} already")


def _ask(flags: Mapping[str, Any], verb: str, handler: str, timeout: float | None, **args: Any) -> Mapping[str, Any]:
    left: dict[str, int] = {}

    def told(progress: Mapping[str, Any]) -> None:
        if "left" in progress:
            if progress["left"].keys() != left.keys():
                say(f"waiting for {names(progress['left'])}")
            left.clear()
            left.update(progress["left"])
        else:
            say_stage(progress)

    with find(**flags).connect() as farm:
        try:
            return farm.ask(verb, {"handler": handler, **args}, told, deadline(timeout))
        except ConnectionLost as error:
            raise TimedOut(f"{error}; it goes on, `atmo-farm status` tells how it ends") from error
