"""`restart`, `scale`, `pause`, `resume`, `drain`: what becomes of one handler's workers. The master does it.

The key `handler` of their requests is its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from atmo_farm.errors import TimedOut, with_exit_code
from atmo_farm.ipc.cards import Life
from atmo_farm.monitor.farm import Farm, Progress
from atmo_farm.monitor.report import PAUSED

USAGE = 2


class Asked(msgspec.Struct):
    """A request."""

    handler: str
    uid: int
    workers: int = 0


async def restart(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """New processes for all its workers: when they are ready the old ones drain. Progress and result as of `reload`;
    a new one that cannot boot: an error, and the old ones stay."""
    asked = _asked(args)
    return await farm.ask("restart", _cause("restart", asked), progress, asked.handler)


async def scale(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """`workers` of it, until a reload that changes the Directive's `workers` of it. Otherwise as `restart`."""
    asked = _asked(args)
    return await farm.ask("scale", _cause("scale", asked), progress, asked.handler, asked.workers)


async def pause(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """No worker takes a new message; the result comes when that holds. Progress: `left`, of whom it does not hold yet.

    It goes on when the client goes.
    """
    return await _turn(farm, args, progress, "pause", lambda worker: worker["state"] == Life.READY)


async def resume(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """They take messages again. As `pause`."""
    return await _turn(farm, args, progress, "resume", lambda worker: worker["state"] == PAUSED)


async def drain(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Pause it; the result comes when no worker has a message in hand any more. As `pause`."""

    def is_left(worker: Mapping[str, Any]) -> bool:
        return bool(worker["state"] == Life.READY or worker["in_flight"] or worker["pending"])

    return await _turn(farm, args, progress, "pause", is_left)


async def _turn(
    farm: Farm, args: Mapping[str, Any], progress: Progress, verb: str, is_left: Callable[[Mapping[str, Any]], bool]
) -> Mapping[str, Any]:
    """`is_left` tells of a worker whether it is waited for. TimedOut when somebody wants the opposite meanwhile."""
    asked = _asked(args)
    result = await farm.ask(verb, _cause(verb, asked), None, asked.handler)
    told: dict[str, int] | None = None
    while True:
        entry = next((one for one in farm.report()["handlers"] if one["name"] == asked.handler), None)
        if entry is None or entry["paused"] != (verb == "pause"):
            raise TimedOut(f"{asked.handler}: somebody {'removed' if entry is None else 'turned'} it meanwhile")
        left = {
            f"{asked.handler}/{worker['number']}": worker["in_flight"] + worker["pending"]
            for worker in entry["workers"]
            if worker["pid"] and is_left(worker)
        }
        if not left:
            return result
        if left != told:
            await progress({"left": left})
            told = left
        await asyncio.sleep(farm.look_again_s)


def _asked(args: Mapping[str, Any]) -> Asked:
    try:
        return msgspec.convert(args, Asked)
    except msgspec.ValidationError as error:
        raise with_exit_code(f"this request is not understood: {error}", USAGE) from error


def _cause(verb: str, asked: Asked) -> str:
    return f"{verb} by user id {asked.uid}"
