"""The outbox of a stream whose outputs and offsets are written together, or not at all.

An output waits here until all records of its partition before its own have ended or have their outputs here, too. Then
it may be in the next transaction, and only when that is committed it is told of: until then its record is in hand. A
transaction under way is the time in which the next one gathers.

A broker refuses a transaction's outputs by the batch, and nothing of it was written. So if not one alone was refused,
the next transactions are smaller, down to one output, which is then the one to blame. Of those that were refused, that
is: partitions without any have to wait, or what they go on giving would always be there, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from atmo_farm.errors import PublishError
from atmo_farm.streams.kafka.driver import Outgoing, Refused
from atmo_farm.streams.kafka.outbox import Outbox
from atmo_farm.streams.kafka.owner import Owner
from atmo_farm.streams.kafka.partitions import Partition, Partitions
from atmo_farm.streams.kafka.records import KafkaOrigin
from atmo_farm.streams.kafka.writing import Batch

LOOK_S = 0.5
"""How often it is looked whether the thread that runs a transaction has come to a stand."""
MOST_OUTPUTS = 10_000
MOST_BYTES = 32 << 20
"""In one transaction; one output alone may be larger."""


class TransactionalOutbox(Outbox):
    """Of one stream."""

    def __init__(self, owner: Owner, partitions: Partitions):
        super().__init__(owner, partitions)
        self._prepared: dict[Partition, dict[int, Outgoing]] = {}
        """By the offset of the record that they come of."""
        self._given_up: dict[Partition, int] = {}
        """From which offset on nothing of a partition will end in this process."""
        self._is_under_way = False
        self._watch: asyncio.TimerHandle | None = None
        self._most = MOST_OUTPUTS
        self._suspects: list[Outgoing] = []
        """What was refused last: one of these is to blame."""
        self._revocations = 0

    def send(self, record: Outgoing) -> None:
        """As ever."""
        assert isinstance(record.cause, KafkaOrigin)
        partition, offset = record.cause.partition, record.cause.record.offset
        if not self._partitions.has(partition) or offset >= self._given_up.get(partition, offset + 1):
            self._loop.call_soon(record.token.tell)  # for nothing: it comes again elsewhere
            return
        self._prepared.setdefault(partition, {})[offset] = record
        self._tell_soon()

    def end(self, partition: Partition, offset: int) -> None:
        """As ever."""
        self._partitions.end(partition, offset)
        self.settle(1)

    def give_up(self, partition: Partition, offset: int) -> None:
        """As ever."""
        self._given_up[partition] = min(offset, self._given_up.get(partition, offset))
        self._forget(partition, offset)

    def revoked(self, partitions: Collection[int]) -> None:
        """As ever."""
        super().revoked(partitions)
        self._revocations += 1
        self._tell_soon()

    def tell(self) -> None:
        """As ever."""
        super().tell()
        if self._is_under_way:
            return
        batch = self._gathered()
        if batch.offsets:
            self._is_under_way = True
            self._look()
            self._owner.transact(batch)

    def _look(self) -> None:
        self._owner.look()
        self._watch = self._loop.call_later(LOOK_S, self._look)

    def transacted(self, offsets: Mapping[int, int], refused: list[Refused]) -> None:
        """The end of what is under way, as `ears.Ears` says."""
        self._is_under_way = False
        if self._watch is not None:
            self._watch.cancel()
        lasting = [one for one in refused if not one[1].transient]
        if len(lasting) > 1:
            self._most = max(1, len(lasting) // 4)
            self._suspects = [record for record, _ in lasting]
            refused = [one for one in refused if one[1].transient]
        elif offsets:
            self._most = min(2 * self._most, MOST_OUTPUTS)
        told: list[tuple[Outgoing, PublishError | None]] = []
        for partition, prepared in self._prepared.items():
            written = [offset for offset in prepared if offset < offsets.get(partition.number, 0)]
            told += [(prepared.pop(offset), None) for offset in written]
            lost = [(offset, error) for offset, one in prepared.items() for record, error in refused if one is record]
            told += [(prepared.pop(offset), error) for offset, error in lost]
        for record, error in told:
            record.token.tell(error)
        self._tell_soon()

    def _gathered(self) -> Batch:
        for partition in [one for one in self._prepared if not self._partitions.has(one)]:
            self._forget(partition, 0)
            del self._prepared[partition]
        offsets: dict[int, int] = {}
        outputs: dict[int, list[Outgoing]] = {}
        room, size = self._most, MOST_BYTES
        self._suspects = [one for one in self._suspects if self._is_prepared(one)]
        suspicious = {one.cause.partition for one in self._suspects}
        for partition in sorted(self._partitions, key=lambda one: one not in suspicious):
            prepared = self._prepared.get(partition, {})
            position = partition.mark.reach(prepared)
            taken: list[Outgoing] = []
            for offset in sorted(prepared):
                if position is None or offset >= position:
                    break
                record = prepared[offset]
                if not room or (size < record.size and size < MOST_BYTES):
                    position = offset
                    break
                taken.append(record)
                room, size = room - 1, size - record.size
            if position is not None and (taken or position > partition.committed):
                offsets[partition.number], outputs[partition.number] = position, taken
        return Batch(offsets, outputs, self._revocations)

    def _is_prepared(self, record: Outgoing) -> bool:
        return self._prepared.get(record.cause.partition, {}).get(record.cause.record.offset) is record

    def _forget(self, partition: Partition, begin: int) -> None:
        """What was prepared from here on is for nothing: its records come again elsewhere."""
        prepared = self._prepared.get(partition, {})
        for offset in [one for one in prepared if one >= begin]:
            self._loop.call_soon(prepared.pop(offset).token.tell)
