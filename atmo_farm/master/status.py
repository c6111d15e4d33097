"""The farm in one line, for `systemctl status`."""

from __future__ import annotations

from collections.abc import Iterable

from atmo_farm.ipc.arena import Field
from atmo_farm.master.fleet import Fleet

NAMED = 3
"""So many workers are named; of more, only how many there are is said."""


def line(generation: int, fleet: Fleet, doing: str, note: str) -> str:
    """`generation 3, 4 of 5 ready; waiting: echo/0 for nats default (refused); 12 messages dropped`.

    `doing` is what the master is about (`reloading`), `note` what should not be forgotten (a refused reload).
    """
    staying = [worker for worker in fleet.serving if not worker.leaving]
    leaving = len(fleet.serving) - len(staying)
    waiting = [
        f"{worker.name} for {worker.waiting.on} ({worker.waiting.reason})" for worker in staying if worker.waiting
    ]
    failing = [f"{worker.name} ({worker.failure})" for worker in fleet.workers if worker.failure and not worker.leaving]
    dropped = fleet.slots.total(Field.DROPPED)
    ready = f"generation {generation}, {sum(worker.is_ready for worker in staying)} of {len(staying)} ready"
    parts = [
        f"{doing}: {ready}" if doing else ready,
        f"{leaving} draining" if leaving else "",
        f"waiting: {_some(waiting)}" if waiting else "",
        f"not getting ready: {_some(failing)}" if failing else "",
        f"{dropped} messages dropped" if dropped else "",
        f"paused: {_some(sorted(fleet.wishes.paused))}" if fleet.wishes.paused else "",
        note,
    ]
    return "; ".join(part for part in parts if part)


def _some(items: Iterable[str]) -> str:
    named = list(items)
    more = len(named) - NAMED
    return ", ".join(named[:NAMED]) + (f" and {more} more" if more > 0 else "")
