"""A farm of cards and numbers in a real arena, as a master and its children would leave them."""

from __future__ import annotations

from typing import Any

import attrs

from atmo_farm import clock
from atmo_farm.ipc import cards
from atmo_farm.ipc.arena import Arena, Field
from atmo_farm.ipc.cards import FarmCard, Kind, Life, WorkerCard
from atmo_farm.monitor.report import Seen

FARM = FarmCard("com.acme.shop", "v1", 3, 7, 0.0, "", "", 0)


class MadeFarm:
    """`worker` adds one; `seen` is what the monitor sees."""

    def __init__(self) -> None:
        self.arena = Arena()
        self.card: FarmCard | None = FARM
        self.workers: list[Seen] = []
        self.numbers = self.arena.farm
        self.numbers[Field.HEARTBEAT_NS] = clock.monotonic_ns()

    def worker(self, name: str, kind: Kind = Kind.CONSUMER, life: Life = Life.READY, **card: Any) -> memoryview:
        """Returns its numbers; it has just been idle."""
        numbers = self.arena.slot(len(self.workers))
        made = WorkerCard(kind, name, **{"life": life, "generation": 3, **card})
        self.workers.append((made, numbers))
        for field in (Field.HEARTBEAT_NS, Field.IDLE_NS, Field.NO_LAG_NS):
            numbers[field] = clock.monotonic_ns()
        numbers[Field.PATIENCE_MS] = 60_000
        return numbers

    def doing(self, word: str) -> None:
        """What the master is about."""
        self.card = attrs.evolve(FARM, doing=word)

    def show(self) -> None:
        """Write all cards into the arena, for a monitor that reads them there."""
        for worker, numbers in self.workers:
            cards.write(numbers, worker)
        cards.write(self.numbers, attrs.evolve(FARM, slots=len(self.workers)))

    def seen(self) -> tuple[FarmCard | None, memoryview, list[Seen]]:
        """As `Farm.seen`."""
        return self.card, self.numbers, self.workers


def age(numbers: memoryview, field: Field, seconds: float) -> None:
    """Set a time so far back."""
    numbers[field] = clock.monotonic_ns() - int(seconds * 1e9)
