"""The dead letters of one handler on Kafka, for whoever reads, replays or purges them: clients of its own.

A topic cannot lose a single record. So a letter that is removed is followed by a record without a value, which says so:

    Atmo-Dead-Removed      <partition>-<offset>

Both are gone when the topic's retention says so. When a partition holds nothing but removed letters up to some offset,
the broker is asked to delete those at once, which it may refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import attrs
from kafka import KafkaAdminClient, KafkaConsumer, errors
from kafka.structs import TopicPartition

from atmo_farm import clock
from atmo_farm.directive.connections import KafkaConnection
from atmo_farm.directive.resources import topic_problem
from atmo_farm.errors import PublishError, TimedOut
from atmo_farm.streams.base import Kept, Output
from atmo_farm.streams.kafka import kafka_python_client as client
from atmo_farm.streams.kafka.driver import BrokerRefused, BrokerUnavailable, Outgoing
from atmo_farm.streams.kafka.kafka_python_producer import KafkaPythonProducer
from atmo_farm.streams.kafka.options import options
from atmo_farm.streams.kafka.records import pairs, wire_headers

REMOVED = "Atmo-Dead-Removed"
POLL_S = 1.0
ANSWER_S = 10.0

T = TypeVar("T")


class KafkaLetters:
    """`streams.base.Letters`, and where they are sent again. Use it as a context; then its calls raise PublishError
    when the broker does not answer or refuses."""

    def __init__(self, connection: KafkaConnection, resource: str, client_name: str):
        """`resource` is the topic where the letters are. CannotStart when the connection cannot be used as it is."""
        self._options = options(connection, client_name)
        self._topic = resource
        self._thread = ThreadPoolExecutor(1, "kafka letters")
        """The clients' only one: all that they do blocks."""
        self._consumer: Any = None
        self._producer: KafkaPythonProducer | None = None
        self._removed: dict[int, set[int]] = {}
        """By partition: offsets of letters that are removed."""
        self._seen: dict[int, int] = {}
        """By partition: up to where `_removed` is known."""
        self._mine: set[int] = set()
        """Partitions of which this one has removed letters."""
        self.problem = ""
        """Why letters that may be there cannot be read; none is told of then."""

    async def __aenter__(self) -> KafkaLetters:
        """Connect, once. TimedOut when that is not possible now."""
        try:
            await self._do(self._connect)
        except BaseException as error:
            self._thread.submit(self._close)  # after `_connect`, should that still be at it
            self._thread.shutdown(wait=False)
            if isinstance(error, PublishError):
                raise TimedOut(f"{self._options.where} is out of reach: {error}") from error
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._do(self._close)
        finally:
            self._thread.shutdown(wait=False)

    async def letters(self, since_s: float | None = None) -> AsyncIterator[Kept]:
        """Those that are in the topic now, one partition after the other."""
        for partition in await self._do(self._look):
            at, end = await self._do(self._start, partition, since_s)
            while at < end:
                at, found = await self._do(self._read, partition, at, end)
                for record in found:
                    if record.value is not None and record.offset not in self._removed[partition]:
                        yield attrs.evolve(_kept(record), data=b"")

    async def load(self, letter_id: str) -> Kept | None:
        """One with its payload; None when it is not there."""
        place = _place(letter_id)
        if place is None or place[0] not in await self._do(self._look):
            return None
        partition, offset = place
        if offset in self._removed[partition] or not self._seen_from(partition, offset):
            return None
        _, found = await self._do(self._read, partition, offset, offset + 1)
        return _kept(found[0]) if found and found[0].offset == offset and found[0].value is not None else None

    async def remove(self, letter_id: str) -> bool:
        """Whether it was there."""
        place = _place(letter_id)
        if place is None or await self.load(letter_id) is None:
            return False
        partition, offset = place
        mark = Outgoing(self._topic, letter_id.encode(), None, [(REMOVED, letter_id.encode())])
        await self._do(self._write, mark)
        self._removed[partition].add(offset)
        self._mine.add(partition)
        return True

    def is_alone(self, who: str) -> bool:
        """Whether no other handler's letters than those of `<identifier>.<handler>` are there."""
        return self._topic == f"{who}.dead"

    async def purge(self) -> int:
        """Remove all at once, whoever's they are; returns how many these were. Where the user may not, none is."""
        count = 0
        async for _ in self.letters():
            count += 1
        try:
            await self._do(self._delete, dict(self._seen))
        except PublishError:
            return 0
        return count

    def problem_of(self, target: str) -> str:
        """Why nothing can be sent to this topic; empty if it can."""
        return topic_problem(target)

    async def send(self, output: Output) -> None:
        """Write it; returns when all replicas in sync have it. PublishError, transient where it may be taken later."""
        headers = wire_headers(output)
        await self._do(self._write, Outgoing(output.subject, output.record_key, output.data, headers))

    def _seen_from(self, partition: int, offset: int) -> bool:
        return 0 <= offset < self._seen[partition]

    async def _do(self, what: Callable[..., T], *args: Any) -> T:
        """On the clients' thread."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, what, *args)
        except BrokerUnavailable as error:
            raise PublishError(str(error), transient=True) from error
        except BrokerRefused as error:
            raise PublishError(str(error), transient=False) from error
        except errors.KafkaError as error:
            raise PublishError(client.reason(error, self._options), transient=bool(error.retriable)) from error

    # From here on it is the thread.

    def _connect(self) -> None:
        self._consumer, _ = client.connect(
            KafkaConsumer, self._options, metrics_enabled=False, isolation_level="read_committed", group_id=None,
            enable_auto_commit=False, auto_offset_reset="earliest", allow_auto_create_topics=False,
        )  # fmt: skip

    def _close(self) -> None:
        with contextlib.suppress(errors.KafkaError, BrokerUnavailable, BrokerRefused):  # they are marked as removed
            if self._mine:
                self._look()
            for partition in self._mine:
                self._delete_removed(partition)
        if self._producer is not None:
            self._producer.close()
        if self._consumer is not None:
            with contextlib.suppress(errors.KafkaError):  # all that was to be done is done
                self._consumer.close(autocommit=False, timeout_ms=1000)

    def _look(self) -> Sequence[int]:
        """Learn what has been removed up to now; returns the topic's partitions."""
        try:
            numbers = sorted(self._consumer.partitions_for_topic(self._topic) or ())
        except errors.UnknownTopicOrPartitionError:
            return ()
        ends = self._consumer.end_offsets([TopicPartition(self._topic, number) for number in numbers])
        for number in numbers:
            self._removed.setdefault(number, set())
        for number in numbers:
            end = ends[TopicPartition(self._topic, number)]
            at = self._seen[number] if number in self._seen else self._beginning(number)
            while at < end:
                at, found = self._read(number, at, end)
                for place in filter(None, map(_removes, found)):
                    self._removed.setdefault(place[0], set()).add(place[1])
            self._seen[number] = end
        return numbers

    def _start(self, number: int, since_s: float | None) -> tuple[int, int]:
        """Where letters that were kept since then begin, and where they end now."""
        partition = TopicPartition(self._topic, number)
        end = self._seen[number]
        if since_s is None:
            return self._beginning(number), end
        found = self._consumer.offsets_for_times({partition: round(max(0.0, since_s) * 1000)})[partition]
        return (end if found is None else found.offset), end

    def _beginning(self, number: int) -> int:
        partition = TopicPartition(self._topic, number)
        return int(self._consumer.beginning_offsets([partition])[partition])

    def _read(self, number: int, start: int, end: int) -> tuple[int, list[Any]]:
        """Some records from an offset on, and where to go on; the broker's own records are passed over."""
        partition = TopicPartition(self._topic, number)
        if self._consumer.assignment() != {partition}:
            self._consumer.assign([partition])
        if self._consumer.position(partition) != start:
            self._consumer.seek(partition, start)
        deadline = clock.monotonic() + ANSWER_S
        while clock.monotonic() < deadline:
            polled = self._consumer.poll(timeout_ms=round(POLL_S * 1000)).get(partition, [])
            position = int(self._consumer.position(partition))
            if polled or position > start:
                return position, [record for record in polled if record.offset < end]
        raise BrokerUnavailable("no answer in time")

    def _write(self, record: Outgoing) -> None:
        if self._producer is None:
            self._producer = KafkaPythonProducer(self._options)
        self._producer.send(record)
        deadline = clock.monotonic() + ANSWER_S
        while clock.monotonic() < deadline:
            for _, error in self._producer.flush(POLL_S):
                if error is not None:
                    raise error
                return
        self._producer.close()
        self._producer = None
        raise BrokerUnavailable("no answer in time: it may have been written")

    def _delete_removed(self, number: int) -> None:
        """What nobody will read again, at the beginning of a partition: removed letters, and the marks among them."""
        start, end = self._beginning(number), self._seen[number]
        at = start
        while at < end:
            following, found = self._read(number, at, end)
            kept = next((one.offset for one in found if not self._is_done(number, one)), None)
            at = following if kept is None else kept
            if kept is not None:
                break
        if at > start:
            self._delete({number: at})

    def _delete(self, ends: Mapping[int, int]) -> None:
        """The records of partitions up to these offsets."""
        admin, _ = client.connect(KafkaAdminClient, self._options)
        try:
            admin.delete_records({TopicPartition(self._topic, number): end for number, end in ends.items()})
        finally:
            admin.close()

    def _is_done(self, number: int, record: Any) -> bool:
        """A mark is when its letter is before it, and so deleted with it, or deleted already."""
        if record.value is not None:
            return record.offset in self._removed[number]
        place = _removes(record)
        return place is None or place[1] < (record.offset if place[0] == number else self._beginning(place[0]))


def _place(letter_id: str) -> tuple[int, int] | None:
    partition, dash, offset = letter_id.partition("-")
    plain = partition + offset
    return (int(partition), int(offset)) if dash and plain.isascii() and plain.isdecimal() and len(plain) < 30 else None


def _removes(record: Any) -> tuple[int, int] | None:
    """The letter that this record says is removed."""
    if record.value is not None:
        return None
    said = next((value for name, value in record.headers or () if name == REMOVED), None)
    return _place((said or b"").decode("ascii", "replace"))


def _kept(record: Any) -> Kept:
    return Kept(
        id=f"{record.partition}-{record.offset}",
        key="",
        headers=pairs(record.headers or ()),
        size=len(record.value or b""),
        kept_s=record.timestamp / 1000,
        record_key=record.key,
        data=record.value or b"",
    )
