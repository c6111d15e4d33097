"""Who writes which slot of the arena.

    a worker's slot    one for each worker; its processes, one after the other, count in it
    a retired slot     one for each handler that ever gave a worker up; the master adds the given-up counts there
    the farm's slot    the master's own

So the sum over a handler's slots and its retired slot never falls, whatever dies, rolls or is scaled. While a reload
replaces a worker, the old and the new process live side by side; each has a slot of its own. When no slot is free,
handlers that have no worker any more share one retired slot.
"""

from __future__ import annotations

from atmo_farm.errors import CannotStart
from atmo_farm.ipc import cards
from atmo_farm.ipc.arena import FIRST_COUNT, FIRST_GAUGE, NUMBERS, SLOT_SIZE, SLOTS, Arena, Field
from atmo_farm.ipc.cards import Kind, WorkerCard

Owner = tuple[Kind, str]
"""What a worker is for, and the handler's name: a role's key."""

GONE: Owner = (Kind.CONSUMER, "")
"""The retired slot of handlers that are gone: no handler has this name."""


class Slot:
    """One worker's slot. Between two processes of the worker the master may write it; while one runs, only that one."""

    def __init__(self, index: int, arena: Arena):
        self.index = index
        self.arena = arena
        self.numbers = arena.slot(index)

    def vacate(self) -> None:
        """The process is gone: only the counts, and how often one began here, remain."""
        starts = self.numbers[Field.STARTS]
        for part in (self.numbers[:FIRST_COUNT], self.numbers[FIRST_GAUGE:NUMBERS]):
            part.cast("B")[:] = bytes(part.nbytes)
        self.numbers[Field.STARTS] = starts

    def clear(self) -> None:
        """All zero, for another worker."""
        self.numbers.cast("B")[:] = bytes(SLOT_SIZE)


class Slots:
    """The arena, and which of its slots are free, taken and retired."""

    def __init__(self) -> None:
        self.arena = Arena()
        self.used = 0
        """Only slots below this one were ever taken."""
        self._free = list(range(SLOTS - 1, -1, -1))
        self._taken: dict[Slot, Owner] = {}
        self._retired: dict[Owner, Slot] = {}

    @property
    def free(self) -> int:
        """How many more workers have a place."""
        return len(self._free) + max(0, len(self._gone()) - (GONE not in self._retired))

    def take(self, owner: Owner) -> Slot:
        """A slot for one of the owner's workers, all zero; CannotStart when there is none."""
        if not self._free:
            for gone in self._gone():
                self._retire(self._retired.pop(gone), GONE)
        if not self._free:
            raise CannotStart(f"all {SLOTS} places for workers are taken; give handlers fewer `workers`")
        index = self._free.pop()
        self.used = max(self.used, index + 1)
        slot = Slot(index, self.arena)
        self._taken[slot] = owner
        return slot

    def give_back(self, slot: Slot) -> None:
        """A slot that no process writes any more: its counts join its owner's retired ones, and it is free.

        The first one of an owner becomes its retired slot, so that this needs no free slot.
        """
        slot.vacate()
        self._retire(slot, self._taken.pop(slot))

    def retired(self, owner: Owner, field: Field) -> int:
        """What workers of this owner counted that are gone for good."""
        return self._retired[owner].numbers[field] if owner in self._retired else 0

    def total(self, field: Field) -> int:
        """What all workers counted since the farm's start."""
        return sum(slot.numbers[field] for slot in (*self._taken, *self._retired.values()))

    def _gone(self) -> list[Owner]:
        """Owners that have a retired slot and no worker, those that are gone for longest first."""
        there = {GONE, *self._taken.values()}
        return [owner for owner in self._retired if owner not in there]

    def _retire(self, slot: Slot, owner: Owner) -> None:
        retired = self._retired.setdefault(owner, slot)
        if retired is slot:
            cards.write(slot.numbers, WorkerCard(*owner))
        else:
            for number, count in enumerate(slot.numbers[FIRST_COUNT:FIRST_GAUGE].tolist(), FIRST_COUNT):
                if count:
                    retired.numbers[number] = (retired.numbers[number] + count) % 2**64
            slot.clear()
            self._free.append(slot.index)
