"""`top`: what each handler has used and done, to be asked again and again; rates are the client's to reckon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atmo_farm import clock
from atmo_farm.ipc import histogram
from atmo_farm.ipc.cards import Kind, Life
from atmo_farm.ipc.histogram import Timed
from atmo_farm.monitor import health, machine
from atmo_farm.monitor.farm import Farm, Progress


async def top(farm: Farm, _args: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
    """What `status` tells, and `at_s`, when that was (its clock has no epoch); for each of its handlers also:

    `lag`         messages that the broker has not delivered; null where that is not known
    `attempts`    how many attempts ever took less than 16 µs, 32 µs, 64 µs, …, each counted once
    `cpu_s`       processor time of the processes that are there
    `memory`      their resident bytes, shared ones included
    """
    found = farm.report()
    _, _, seen = farm.seen()
    for entry in found["handlers"]:
        own = [(card, slot) for card, slot in seen if card.kind == Kind.CONSUMER and card.name == entry["name"]]
        lag = health.lag([slot for card, slot in own if card.life != Life.RETIRED])
        used = [use for one in entry["workers"] if one["pid"] and (use := machine.usage(one["pid"])) is not None]
        entry["lag"] = sum(lag.values()) if lag else None
        entry["attempts"] = list(histogram.read([slot for _, slot in own], Timed.ATTEMPT).counts)
        entry["cpu_s"] = round(sum(use.cpu_s for use in used), 2)
        entry["memory"] = sum(use.memory for use in used)
    return {"at_s": clock.monotonic(), **found}
