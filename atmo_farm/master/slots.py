"""Who writes which slot of the arena.

    a worker's slot    one for each worker; its processes, one after the other, count in it
    a retired slot     one for each handler that ever gave a worker up; the master adds the given-up counts there

So the sum over a handler's slots and its retired slot never falls, whatever dies, rolls or is scaled. While a reload
replaces a worker, the old and the new process live side by side; each has a slot of its own. When no slot is free,
handlers that have no worker any more share one retired slot.
"""

from __future__ import annotations

from atmo_farm.errors import CannotStart
from atmo_farm.ipc.arena import COUNTS, SLOT_SIZE, SLOTS, Arena, Field

GONE = ""
"""The retired slot of handlers that are gone: no handler has this name."""


class Slot:
    """One worker's slot. Between two processes of the worker the master may write it; while one runs, only that one."""

    def __init__(self, index: int, numbers: memoryview):
        self.index = index
        self.numbers = numbers

    def vacate(self) -> None:
        """The process is gone: only the counts, and how often one began here, remain."""
        for field in Field:
            if field not in COUNTS and field is not Field.STARTS:
                self.numbers[field] = 0

    def clear(self) -> None:
        """All zero, for another worker."""
        self.numbers.cast("B")[:] = bytes(SLOT_SIZE)


class Slots:
    """The arena, and which of its slots are free, taken and retired."""

    def __init__(self) -> None:
        self._arena = Arena()
        self._free = list(range(SLOTS - 1, -1, -1))
        self._taken: dict[Slot, str] = {}
        self._retired: dict[str, Slot] = {}

    @property
    def free(self) -> int:
        """How many more workers have a place."""
        return len(self._free) + max(0, len(self._gone()) - (GONE not in self._retired))

    def take(self, handler: str) -> Slot:
        """A slot for one of the handler's workers, all zero; CannotStart when there is none."""
        if not self._free:
            for gone in self._gone():
                self._retire(self._retired.pop(gone), GONE)
        if not self._free:
            raise CannotStart(f"all {SLOTS} places for workers are taken; give handlers fewer `workers`")
        index = self._free.pop()
        slot = Slot(index, self._arena.slot(index))
        self._taken[slot] = handler
        return slot

    def give_back(self, slot: Slot) -> None:
        """A slot that no process writes any more: its counts join the handler's retired ones, and it is free.

        The first one of a handler becomes its retired slot, so that this needs no free slot.
        """
        slot.vacate()
        self._retire(slot, self._taken.pop(slot))

    def retired(self, handler: str, field: Field) -> int:
        """What workers of the handler counted that are gone for good."""
        return self._retired[handler].numbers[field] if handler in self._retired else 0

    def total(self, field: Field) -> int:
        """What all workers counted since the farm's start."""
        return sum(slot.numbers[field] for slot in (*self._taken, *self._retired.values()))

    def _gone(self) -> list[str]:
        """Handlers that have a retired slot and no worker, those that are gone for longest first."""
        there = {GONE, *self._taken.values()}
        return [handler for handler in self._retired if handler not in there]

    def _retire(self, slot: Slot, handler: str) -> None:
        retired = self._retired.setdefault(handler, slot)
        if retired is not slot:
            for field in COUNTS:
                retired.numbers[field] = (retired.numbers[field] + slot.numbers[field]) % 2**64
            slot.clear()
            self._free.append(slot.index)
