"""The driver on librdkafka: its consumer. The library's own threads fetch; what it tells, it tells inside of `poll`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_STORED,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from atmo_farm import clock
from atmo_farm.errors import AtmoFarmError
from atmo_farm.streams.kafka import admin
from atmo_farm.streams.kafka import librdkafka_client as client
from atmo_farm.streams.kafka.driver import MOST_RECORDS, BrokerRefused, Listener, Record, Standing
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.options import Options

FETCH_BYTES = 16 << 20
PARTITION_FETCH_BYTES = 4 << 20
QUEUED_BYTES = 16 << 20
METADATA_AGE_S = 30.0
"""How old what is known of topics may be: a deleted topic, or a new partition, is noticed so late."""
ASK_TIMEOUT_S = 3.0
LAG_TIMEOUT_S = 0.5
"""For where partitions begin, where that is asked for the lag's sake alone."""
LOOK_AGAIN_S = 5.0
"""How often `missing` asks the broker while all seems well."""

_NOT_OURS = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._STATE,
}
_TOPIC_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_AGAIN_BY_ITSELF = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE}


class _Record(NamedTuple):
    """`driver.Record`."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class LibrdkafkaConsumer:
    """`driver.Consumer`. BrokerUnavailable when no broker lets it in within a few seconds."""

    def __init__(self, options: Options, topic: str, membership: Membership, listener: Listener):
        self._options = options
        self._topic = topic
        self._membership = membership
        self._listener = listener
        self._subscribed = self._joined = False
        self._gone = False
        """The library says that the topic is."""
        self._look_at = 0.0
        self._revoking = False
        self._fenced: Any = None
        """Told by a commit."""
        self._astray = ""
        """Why it is not known where partitions begin; then nothing of them may be handed over."""
        self._positions: dict[int, int] = {}
        """Of our partitions: one above what was returned last, or where they begin; below 0: not known."""
        self._connection = client.Connection(options)
        static = {"group_instance_id": membership.instance_id} if membership.instance_id else {}
        self._consumer = Consumer(
            self._connection.configuration(
                group_id=membership.group,
                session_timeout_ms=round(membership.session_timeout_s * 1000),
                heartbeat_interval_ms=round(membership.session_timeout_s * 1000 / 4),
                auto_offset_reset="earliest",  # also where the group was so long ago that its place is deleted
                on_commit=self._on_commit,
                enable_auto_commit=False,
                enable_auto_offset_store=False,
                partition_assignment_strategy="cooperative-sticky",
                isolation_level="read_committed",
                fetch_max_bytes=FETCH_BYTES,
                max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
                queued_max_messages_kbytes=QUEUED_BYTES >> 10,
                topic_metadata_refresh_interval_ms=round(METADATA_AGE_S * 1000),
                allow_auto_create_topics=False,
                **static,
            )
        )
        try:
            self._consumer.list_topics(topic, timeout=client.BOOTSTRAP_TIMEOUT_S)
        except KafkaException as error:
            self._consumer.poll(0)  # what was told meanwhile
            self._consumer.close()
            raise self._connection.not_let_in(error.args[0]) from error

    def poll(self, timeout_s: float, most: int = MOST_RECORDS) -> Mapping[int, Sequence[Record]]:
        """As the protocol says."""
        if not self._subscribed:  # not before: the library joins at once, whether it is polled or not
            self._subscribed = True
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
        try:
            first = self._consumer.poll(timeout_s)
            # `consume` waits all of its time for a full batch: the first message alone is worth waiting for
            more = self._consumer.consume(most - 1, 0) if first is not None and most > 1 else []
        except KafkaException as failed:
            raise client.wrapped(failed.args[0], self._options) from failed
        if self._fenced is not None:
            raise client.wrapped(self._fenced, self._options)
        if self._astray:
            raise BrokerRefused(f"cannot learn where the group begins: {self._astray}")
        if first is None:
            return {}
        records: dict[int, list[Record]] = {}
        for message in (first, *more):
            error = message.error()
            if error is not None:
                self._mind(error)
                continue
            record = _Record(
                message.offset(), message.timestamp()[1], message.key(), message.value(), message.headers() or ()
            )
            records.setdefault(message.partition(), []).append(record)
        for partition, found in records.items():
            self._positions[partition] = found[-1].offset + 1
        return records

    def commit(self, offsets: Mapping[int, int]) -> bool:
        """As the protocol says."""
        wanted = [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        try:
            # Waiting for it has no end while the coordinator is away. Inside of a listener, where nothing may poll, the
            # coordinator is there.
            done = self._consumer.commit(offsets=wanted, asynchronous=not self._revoking)
        except KafkaException as error:
            if error.args[0].code() in _NOT_OURS:
                return False
            raise client.wrapped(error.args[0], self._options) from error
        if self._revoking:
            self._on_commit(None, done or [])
        return True

    def standing(self) -> Standing:
        """As the protocol says. The library waits with a new generation until `poll` has told what is not ours."""
        return Standing(self._consumer.consumer_group_metadata(), frozenset(self._positions))

    def pause(self, partitions: Collection[int]) -> None:
        """As the protocol says."""
        self._each(self._consumer.pause, partitions)

    def resume(self, partitions: Collection[int]) -> None:
        """As the protocol says."""
        self._each(self._consumer.resume, partitions)

    def joined(self) -> bool:
        """As the protocol says."""
        return self._joined

    def missing(self) -> bool:
        """As the protocol says."""
        now = clock.monotonic()
        if self._gone or now >= self._look_at:
            self._look_at = now + LOOK_AGAIN_S
            try:
                topic = self._consumer.list_topics(self._topic, timeout=ASK_TIMEOUT_S).topics.get(self._topic)
            except KafkaException:
                return self._gone
            self._gone = topic is None or (topic.error is not None and topic.error.code() in _TOPIC_GONE)
        return self._gone

    def lag(self) -> Mapping[int, int]:
        """As the protocol says."""
        lag: dict[int, int] = {}
        for partition, position in self._positions.items():
            found = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            if found and found[1] >= 0 and position >= 0:
                lag[partition] = max(0, found[1] - position)
        return lag

    def trouble(self) -> str:
        """As the protocol says."""
        return self._connection.trouble()

    def close(self) -> None:
        """As the protocol says."""
        self._consumer.close()

    def _on_commit(self, error: Any, partitions: list[TopicPartition]) -> None:
        if error is not None and error.code() in (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED):
            self._fenced = error
        done = {one.partition: one.offset for one in partitions if error is None and one.error is None}
        if done:
            self._listener.committed(done)
        errors = [one for one in (error, *(one.error for one in partitions)) if one is not None]
        if any(one.code() in _NOT_OURS for one in errors):
            self._listener.uncommitted()

    def _mind(self, error: Any) -> None:
        """What the library says between the records."""
        if error.code() in _TOPIC_GONE:
            self._gone = True
        elif error.code() not in _AGAIN_BY_ITSELF and not error.retriable():
            raise client.wrapped(error, self._options)

    def _each(self, call: Callable[[list[TopicPartition]], object], partitions: Collection[int]) -> None:
        ours = [TopicPartition(self._topic, number) for number in partitions if number in self._positions]
        if ours:
            call(ours)

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._joined = True
        earliest = self._membership.start_at == "earliest"
        try:
            if partitions and earliest:
                known = consumer.committed(partitions, timeout=LAG_TIMEOUT_S)
            else:
                known = partitions = self._starting(consumer, partitions)
        except (KafkaException, AtmoFarmError) as error:
            known = ()
            if not earliest:
                self._astray = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        consumer.incremental_assign(partitions)
        self._positions |= {one.partition: -1 for one in partitions} | {one.partition: one.offset for one in known}
        if partitions:
            self._listener.assigned({partition.partition for partition in partitions})

    def _on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        going = {partition.partition for partition in partitions} & self._positions.keys()
        self._revoking = True
        if going:
            self._listener.revoking(going)
        self._revoking = False
        self._on_lost(consumer, partitions)

    def _on_lost(self, _consumer: Any, partitions: list[TopicPartition]) -> None:
        gone = {partition.partition for partition in partitions} & self._positions.keys()
        for partition in gone:
            del self._positions[partition]
        if gone:
            self._listener.revoked(gone)

    def _starting(self, consumer: Any, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Where the group has committed nothing, with the offset to begin at, which is committed at once: whoever has
        the partition next, after a death, would else begin at a later end."""
        committed = self._committed(consumer, partitions) if partitions else []
        fresh = [one for one in committed if one.offset == OFFSET_INVALID]
        if not fresh:
            return partitions
        start_at = self._membership.start_at
        when = OFFSET_END if isinstance(start_at, str) else round(start_at * 1000)
        asked = [TopicPartition(one.topic, one.partition, when) for one in fresh]
        found = {one.partition: one for one in consumer.offsets_for_times(asked, timeout=ASK_TIMEOUT_S)}
        for one in fresh:
            at = found[one.partition].offset
            if at < 0:  # nothing is as young as that
                at = consumer.get_watermark_offsets(one, timeout=ASK_TIMEOUT_S)[1]
            one.offset = at
        consumer.commit(offsets=fresh, asynchronous=False)
        return [one for one in committed if one not in fresh] + fresh

    def _committed(self, consumer: Any, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """With what the group has committed. An undecided transaction of a process that died keeps the broker from
        saying it for as long as 45 s: these are with OFFSET_STORED, and the library itself waits for them."""
        try:
            return list(consumer.committed(partitions, timeout=ASK_TIMEOUT_S))
        except KafkaException:
            begun = admin.committed(self._options, self._membership.group, self._topic)
            where = [OFFSET_STORED if one.partition in begun else OFFSET_INVALID for one in partitions]
            return [TopicPartition(one.topic, one.partition, at) for one, at in zip(partitions, where, strict=True)]
