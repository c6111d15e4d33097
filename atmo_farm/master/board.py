"""Keeps the cards in the arena true: whoever shows the farm reads them, and asks the master nothing."""

from __future__ import annotations

import math
import os
from typing import Any

from atmo_farm import clock
from atmo_farm.directive.connections import Connections
from atmo_farm.ipc import cards, gauges
from atmo_farm.ipc.arena import Field, State
from atmo_farm.ipc.cards import FarmCard, Life, WorkerCard
from atmo_farm.master.fleet import Fleet
from atmo_farm.master.generation import Generation
from atmo_farm.master.slots import Slot
from atmo_farm.master.worker import Worker

INTERVAL_S = 0.02
"""Cards are at most so old: hundreds of children that say something at once cost one round, not hundreds."""

_LIVES = {State.BOOTING: Life.STARTING, State.WAITING: Life.WAITING, State.READY: Life.READY}


class Board:
    """All cards; `show` is called in each turn of the master's loop."""

    def __init__(self, fleet: Fleet):
        self._fleet = fleet
        self._numbers = fleet.slots.arena.farm
        self._since = clock.monotonic()
        self._shown_at = 0.0
        self._farm: FarmCard | None = None
        self._workers: dict[Slot, tuple[Any, ...]] = {}
        """What their cards were made of."""

    def hurry(self) -> None:
        """The next `show` must not wait for its time."""
        self._shown_at = 0.0

    def show(self, now: float, generation: Generation, doing: str, note: str) -> float:
        """Write what has changed, and the master's own sign of life; returns when it wants to be called again."""
        self._numbers[Field.HEARTBEAT_NS] = clock.monotonic_ns()
        if now < (due := self._shown_at + INTERVAL_S):
            return due
        self._shown_at = now
        shown, wishes = {}, self._fleet.wishes
        for worker in self._fleet.workers:
            slot = worker.slot
            wished = wishes.is_paused(worker.role), wishes.scaled_from(worker.role)
            shown[slot] = facts = (*wished, *_facts(worker))
            if self._workers.get(slot) != facts:
                cards.write(slot.numbers, _card(worker, *wished))
        self._workers = shown
        farm = FarmCard(
            app=generation.directive.identifier,
            app_version=generation.directive.app_version,
            generation=generation.number,
            pid=os.getpid(),
            since=self._since,
            doing=doing,
            note=note,
            slots=self._fleet.slots.used,
        )
        if self._farm != farm:
            self._farm = farm
            cards.write(self._numbers, farm)
        return math.inf


def _facts(worker: Worker) -> tuple[Any, ...]:
    """All that may change on a worker's card, quickly compared: there may be thousands."""
    process = worker.process
    now = () if process is None else (process, process.state, process.waiting)
    return worker.generation.number, worker.leaving, worker.joining, worker.restarts, worker.failure, now


def _sources(connections: Connections) -> tuple[str, ...]:
    """As the proxy names and orders them."""
    cache = "cache" if connections.redis is None else "redis"
    return (cache, *(f"database {name}" for name in connections.databases))[: gauges.SOURCES]


def _card(worker: Worker, paused: bool, scaled_from: int) -> WorkerCard:
    process, waiting = worker.process, worker.waiting
    life = Life.DOWN if process is None else _LIVES[process.state]
    return WorkerCard(
        kind=worker.role.kind,
        name=worker.role.name,
        number=worker.number,
        life=Life.DRAINING if worker.leaving else life,
        pid=0 if process is None else process.pid,
        generation=worker.generation.number,
        since=0.0 if process is None else process.forked_at,
        restarts=worker.restarts,
        waits_for=f"{waiting.on} ({waiting.reason})" if waiting else "",
        failure=worker.failure,
        joining=worker.joining,
        paused=paused,
        scaled_from=scaled_from,
        sources=_sources(worker.generation.directive.connections) if worker.role.is_proxy else (),
    )
