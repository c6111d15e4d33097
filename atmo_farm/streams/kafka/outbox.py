"""What the loop has for the owner, collected: it is told in few pieces, for flushes and commits cost by the piece."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Mapping

from atmo_farm.streams.kafka.driver import Outgoing, Refused
from atmo_farm.streams.kafka.owner import Owner
from atmo_farm.streams.kafka.partitions import Partition, Partitions


class Outbox:
    """Of one stream. All of a turn of the loop is told at its end, or when `tell` is called."""

    def __init__(self, owner: Owner, partitions: Partitions):
        self._owner = owner
        self._partitions = partitions
        self._loop = asyncio.get_running_loop()
        self._outgoing: list[Outgoing] = []
        self._offsets: dict[int, int] = {}
        self._settled = 0
        self._is_due = False
        self._going: list[tuple[Collection[int], threading.Event]] = []
        """Partitions that are about to be revoked, and who is to know when nothing of them is in hand any more."""

    def send(self, record: Outgoing) -> None:
        """To be written."""
        self._outgoing.append(record)
        self._tell_soon()

    def end(self, partition: Partition, offset: int) -> None:
        """A record that was handed over has ended for good: it may be committed when all before it may."""
        if self._partitions.end(partition, offset):
            position = partition.mark.position
            assert position is not None
            self._offsets[partition.number] = position
        self.settle(1)

    def give_up(self, partition: Partition, offset: int) -> None:
        """One will not end in this process: another one gets it, and all that is behind it."""

    def settle(self, count: int) -> None:
        """So many records that were handed over have ended, or are dropped."""
        self._settled += count
        self._tell_soon()

    def revoking(self, partitions: Collection[int], finished: threading.Event) -> None:
        """`finished` is set when nothing of them is in hand any more."""
        self._going.append((partitions, finished))

    def revoked(self, partitions: Collection[int]) -> None:
        """What would be committed of them is not ours to commit."""
        for partition in partitions:
            self._offsets.pop(partition, None)

    def transacted(self, offsets: Mapping[int, int], refused: list[Refused]) -> None:
        """`ears.Ears`: only where there are transactions."""

    def hold(self) -> None:
        """From now until the next `tell`, the ends of turns tell nothing."""
        self._is_due = True

    def tell(self) -> None:
        """All of it, now."""
        self._is_due = False
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, []
            self._owner.send(outgoing)
        if self._offsets:
            offsets, self._offsets = self._offsets, {}
            self._owner.commit(offsets)
        self._owner.settled += self._settled  # last: by then it has all that follows from them
        self._settled = 0
        if self._going:
            self._tell_finished()

    def _tell_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.tell)

    def _tell_finished(self) -> None:
        ended = [(numbers, one) for numbers, one in self._going if not self._partitions.unfinished(numbers)]
        for going in ended:
            going[1].set()
            self._going.remove(going)
