"""`reload`, `rollback`, `stop` and `loglevel`: what the master does; `history`: what it has kept."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from atmo_farm.errors import with_exit_code
from atmo_farm.ipc.cards import Kind
from atmo_farm.monitor.farm import Farm, Progress

USAGE = 2

TOLD = ("generation", "time", "cause", "app_version", "changes", "refused", "repeats")
"""Of a generation's record."""


async def reload(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Read the application again. Progress: the stages of the first reload that begins after this, its warnings and
    problems; the result: the generation in force, and what is different in it. Refused or rolled back: an error.

    `{"wait": false}`: the result comes as soon as the master has heard. The reload goes on when the client goes.
    """
    return await farm.ask("reload", _cause("reload", args), None if args.get("wait") is False else progress)


async def rollback(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Go back to an older generation, `generation`, or else to the one before. As `reload`, and it holds until the next
    reload, also over a restart of the farm."""
    wanted = args.get("generation") or 0
    if type(wanted) is not int or not 0 <= wanted < 10**12:
        raise with_exit_code("this request is not understood: `generation` is the number of one", USAGE)
    return await farm.ask("rollback", _cause("rollback", args), progress, count=wanted)


async def history(farm: Farm, _args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Progress: a `generation` for each that is known of, the newest first. The result: the one in force."""
    for record in farm.history():
        told = {key: record[key] for key in TOLD if record.get(key)}
        await progress({"generation": {**told, "kept": record["kept"]}})
    return {"in_force": farm.report()["farm"]["generation"]}


async def stop(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Drain and end. Progress: who has not ended yet; the result comes when nobody but the master is left.

    It goes on when the client goes.
    """
    await farm.ask("stop", _cause("stop", args), None)
    told: dict[str, int] = {}
    while not farm.ending.is_set():
        if (left := _left(farm)) != told:
            await progress({"left": left})
            told = left
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(farm.ending.wait(), farm.look_again_s)
    return {"stopped": True}


async def loglevel(farm: Farm, args: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
    """Log from `level` up, in all processes, until the farm ends. The result: the level."""
    return await farm.ask("loglevel", _cause("loglevel", args), None, str(args.get("level")))


def _left(farm: Farm) -> dict[str, int]:
    """Whom the end waits for, and for how many messages of theirs."""
    found = farm.report()
    return {
        f"{entry['name']}/{worker['number']}": worker["in_flight"]
        for entry in [*found["handlers"], *found["processes"]]
        for worker in entry["workers"]
        if worker["pid"] and entry["kind"] != Kind.MONITOR
    }


def _cause(verb: str, args: Mapping[str, Any]) -> str:
    return f"{verb} by user id {args['uid']}"
