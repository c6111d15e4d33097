"""The partitions that are ours: what waits of each, what may be handed over next, what may be committed.

Records are handed over in turn, one partition after the other. A partition stands still while it is `ahead` records
past its watermark (one that fails keeps it from going further, and nothing else), while its watermark is as far past
what is committed (so much would come again, should another member get it), or while it has its share of those in hand;
the others go on. What waits is bounded: a partition that has enough is paused at the broker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence

import attrs

from atmo_farm.streams.kafka.driver import Record
from atmo_farm.streams.kafka.watermark import Watermark

ENOUGH, ENOUGH_BYTES = 512, 2 << 20
"""What waits, or is in hand: then there is no hurry to read on."""
PAUSE_AT, RESUME_AT = 2000, 500
"""Records that wait of one partition. One that works gets so many only beside others that wait for none: to resume
costs librdkafka 0.2 s and all that it has fetched."""
PAUSE_AT_BYTES, RESUME_AT_BYTES = 8 << 20, 1 << 20


@attrs.define
class Flow:
    """Of what waits to be handed over."""

    pause: list[int] = attrs.field(factory=list)
    resume: list[int] = attrs.field(factory=list)
    """Partitions to be paused at the broker, and resumed."""
    short: list[int] = attrs.field(factory=list)
    """Those of which less than their share waits."""
    bytes: int = 0


class Partition:
    """One partition for as long as it is ours without interruption."""

    __slots__ = ("bytes", "committed", "mark", "number", "paused", "turn", "waiting")

    def __init__(self, number: int):
        self.number = number
        self.mark = Watermark()
        self.committed = -1
        """What a member that takes over would begin with; -1 before the first record."""
        self.waiting: deque[Record] = deque()
        self.bytes = 0
        """Of what waits."""
        self.paused = False
        self.turn = False
        """It is among those that take turns."""


class Partitions:
    """All of ours. `ahead`: see the module. `share`: each may have only its share of `ahead` in hand, unfinished: where
    records of a partition wait for each other, one slow partition would else take all places."""

    def __init__(self, ahead: int, share: bool):
        self._ahead = ahead
        self._share = share
        self._most = ahead
        """Records of one partition that may be unfinished."""
        self._ours: dict[int, Partition] = {}
        self.held = False
        """Nothing is handed over, and all are to be paused at the broker."""
        self._turns: deque[Partition] = deque()
        """Those of which something waits, and of which a record may be handed over, as far as was seen."""

    def __len__(self) -> int:
        """How many records wait to be handed over."""
        return 0 if self.held else sum(len(partition.waiting) for partition in self._ours.values())

    def __iter__(self) -> Iterator[Partition]:
        """Those that are ours."""
        return iter(self._ours.values())

    def has(self, partition: Partition) -> bool:
        """Whether it is ours, and has been since."""
        return self._ours.get(partition.number) is partition

    def assigned(self, numbers: Collection[int]) -> None:
        """These are ours from now on."""
        for number in numbers:
            self._ours[number] = Partition(number)
        self._divide()

    def revoked(self, numbers: Collection[int]) -> int:
        """These are not; returns how many of their records waited. Ends of others are still told, and count nothing."""
        dropped = sum(self._drop(self._ours.pop(number)) for number in numbers if number in self._ours)
        self._divide()
        return dropped

    def add(self, number: int, records: Sequence[Record]) -> int:
        """Records of a partition, in order. If they go back behind earlier ones its topic was made anew, and what waits
        of the old one is dropped: returns how many that were."""
        partition, dropped = self._ours[number], 0
        newest = partition.waiting[-1].offset + 1 if partition.waiting else partition.mark.next
        if newest is not None and records[0].offset < newest:
            dropped = self._drop(partition)
            was_paused = partition.paused
            partition = self._ours[number] = Partition(number)
            partition.paused = was_paused
        partition.waiting.extend(records)
        partition.bytes += sum(len(record.value or b"") + len(record.key or b"") for record in records)
        self._give_turn(partition)
        return dropped

    def take(self) -> tuple[Partition, Record] | None:
        """The next record to hand over, which has begun now; None while there is none."""
        turns = self._turns
        while True:
            if not turns or self.held:
                return None
            partition = turns.popleft()
            partition.turn = False
            if self._may_go_on(partition):
                break
        record = partition.waiting.popleft()
        partition.bytes -= len(record.value or b"") + len(record.key or b"")
        if partition.committed < 0:
            partition.committed = record.offset
        partition.mark.begin(record.offset)
        self._give_turn(partition)
        return partition, record

    def end(self, partition: Partition, offset: int) -> bool:
        """A record that was taken has ended for good; whether there is more to commit now."""
        moved = partition.mark.end(offset)
        if not self.has(partition):
            return False
        self._give_turn(partition)
        return moved

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The broker has these."""
        for number, offset in offsets.items():
            partition = self._ours.get(number)
            if partition is not None:
                partition.committed = offset
                self._give_turn(partition)

    def flow(self) -> Flow:
        """What the owner needs to know of what waits; what is paused and resumed is told once."""
        flow = Flow()
        share = ENOUGH // max(1, len(self._ours))
        for partition in self._ours.values():
            waits, size = len(partition.waiting), partition.bytes
            flow.bytes += size
            if waits < share:
                flow.short.append(partition.number)
            if partition.paused and not self.held:
                if waits < RESUME_AT and size < RESUME_AT_BYTES:
                    partition.paused = False
                    flow.resume.append(partition.number)
            elif not partition.paused and (self.held or waits >= PAUSE_AT or size >= PAUSE_AT_BYTES):
                partition.paused = True
                flow.pause.append(partition.number)
        return flow

    def stop(self, numbers: Collection[int]) -> int:
        """Hand over nothing more of these, while what is in hand may still be committed; returns how many waited."""
        return sum(self._drop(self._ours[number]) for number in numbers if number in self._ours)

    def unfinished(self, numbers: Collection[int]) -> int:
        """How many records of these are in hand."""
        return sum(self._ours[number].mark.unfinished for number in numbers if number in self._ours)

    def clear(self) -> int:
        """Hand over nothing that waits; returns how much that was."""
        return sum(self._drop(partition) for partition in self._ours.values())

    def _give_turn(self, partition: Partition) -> None:
        """It may take turns again; whether it has to stand still is seen when its turn comes."""
        if partition.waiting and not partition.turn:
            partition.turn = True
            self._turns.append(partition)

    def _may_go_on(self, partition: Partition) -> bool:
        mark, position = partition.mark, partition.mark.position
        uncommitted = 0 if position is None else position - partition.committed
        if self._share and mark.next is not None and mark.next - partition.committed >= self._most:
            return False  # what a death of this process repeats, over all partitions, is at most `ahead`
        return len(mark) < self._ahead and mark.unfinished < self._most and uncommitted < self._ahead

    def _drop(self, partition: Partition) -> int:
        dropped = len(partition.waiting)
        partition.waiting.clear()
        partition.bytes = 0
        if partition.turn:
            partition.turn = False
            self._turns.remove(partition)
        return dropped

    def _divide(self) -> None:
        if self._share:
            self._most = max(1, self._ahead // max(1, len(self._ours)))
            for partition in self._ours.values():
                self._give_turn(partition)
