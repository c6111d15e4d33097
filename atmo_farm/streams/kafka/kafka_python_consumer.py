"""The driver on kafka-python: its consumer, with what keeps the library's faults from the stream.

docs/decisions says which faults these are. Make it in the process that uses it: a client that lives through a fork
hangs. The library's own I/O threads run beside the thread that calls.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState, OffsetAndMetadata, TopicPartition

from atmo_farm import clock
from atmo_farm.streams.kafka import kafka_python_client as client
from atmo_farm.streams.kafka.driver import MOST_RECORDS, Listener, Record, Standing
from atmo_farm.streams.kafka.membership import HEARTBEATS, Membership
from atmo_farm.streams.kafka.options import Options

FETCH_BYTES = 16 << 20
PARTITION_FETCH_BYTES = 4 << 20
COMMIT_TIMEOUT_S = 3.0
CLOSE_TIMEOUT_S = 2.0
METADATA_AGE_S = 30.0
"""How old what is known of topics may be: a deleted topic, or a new partition, is noticed so late."""
LOOK_AGAIN_S = 0.5
"""How often a member without partitions looks whether the topic is there."""

_NOT_OURS = (
    errors.CommitFailedError,
    errors.RebalanceInProgressError,
    errors.IllegalGenerationError,
    errors.UnknownMemberIdError,
)


class KafkaPythonConsumer:
    """`driver.Consumer`. BrokerUnavailable when no broker lets it in within a few seconds."""

    def __init__(self, options: Options, topic: str, membership: Membership, listener: Listener):
        self._options = options
        self._topic = topic
        self._membership = membership
        self._listener = listener
        self._rebalances: deque[tuple[bool, frozenset[int]]] = deque()
        """What the library's thread has told and this one has not passed on: assigned or revoked, and what."""
        self._ours: set[int] = set()
        self._look_at = 0.0
        self._consumer: Any
        self._consumer, self._client = client.connect(
            KafkaConsumer,
            options,
            metrics_enabled=False,
            group_id=membership.group,
            group_instance_id=membership.instance_id or None,
            session_timeout_ms=round(membership.session_timeout_s * 1000),
            heartbeat_interval_ms=round(membership.session_timeout_s * 1000 / HEARTBEATS),
            auto_offset_reset="earliest" if membership.start_at == "earliest" else "none",
            enable_auto_commit=False,
            partition_assignment_strategy=(CooperativeStickyAssignor,),
            isolation_level="read_committed",
            fetch_max_bytes=FETCH_BYTES,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            metadata_max_age_ms=round(METADATA_AGE_S * 1000),
            allow_auto_create_topics=False,
        )
        _Join(self._consumer._coordinator)
        self._consumer.subscribe([topic], listener=_Rebalances(self._rebalances))
        self.missing()  # a leader that joins before it knows of the topic assigns nothing, and members stay without

    def poll(self, timeout_s: float, most: int = MOST_RECORDS) -> Mapping[int, Sequence[Record]]:
        """As the protocol says."""
        self._unstick()
        try:
            polled = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=most)
        except errors.NoOffsetForPartitionError:
            self._seek_to_start()
            polled = {}
        except errors.OffsetOutOfRangeError as error:  # the group was here so long ago that its place is deleted
            self._consumer.seek_to_beginning(*error.args[0])
            polled = {}
        except errors.KafkaError as error:
            raise client.wrapped(error, self._options) from error
        finally:
            self._pass_on_rebalances()
        if not self._ours:
            self._look_for_topic()
        records = {partition.partition: found for partition, found in polled.items()}
        early = records.keys() - self._ours
        if early:  # assigned after the rebalances were passed on: the library's thread will tell it in a moment
            self._assigned(early)
        return records

    def commit(self, offsets: Mapping[int, int]) -> bool:
        """As the protocol says."""
        wanted = {self._named(partition): OffsetAndMetadata(offset) for partition, offset in offsets.items()}
        try:
            self._consumer.commit(wanted, timeout_ms=COMMIT_TIMEOUT_S * 1000)
        except _NOT_OURS:
            return False
        except errors.KafkaError as error:
            raise client.wrapped(error, self._options) from error
        self._listener.committed(offsets)
        return True

    def standing(self) -> Standing:
        """As the protocol says. The membership is looked at first: before a partition is another's, there is one more
        generation, and before that the library's thread has told that it is not ours."""
        member = self._consumer.group_metadata()
        told = frozenset[int]().union(*(gone for assigned, gone in self._rebalances.copy() if not assigned))
        return Standing(member, frozenset(self._ours - told if member.generation_id >= 0 else ()))

    def pause(self, partitions: Collection[int]) -> None:
        """As the protocol says."""
        self._each(self._consumer.pause, partitions)

    def resume(self, partitions: Collection[int]) -> None:
        """As the protocol says."""
        self._each(self._consumer.resume, partitions)

    def joined(self) -> bool:
        """As the protocol says."""
        return bool(self._consumer.group_metadata().state == MemberState.STABLE)

    def missing(self) -> bool:
        """As the protocol says."""
        try:
            return not self._consumer.partitions_for_topic(self._topic)
        except errors.UnknownTopicOrPartitionError:
            return True
        except errors.KafkaError:
            return False

    def lag(self) -> Mapping[int, int]:
        """As the protocol says."""
        lag: dict[int, int] = {}
        for partition in self._assigned_of(self._ours):
            end, position = self._consumer.highwater(partition), self._consumer.position(partition, timeout_ms=0)
            if end is not None and position is not None:
                lag[partition.partition] = max(0, end - position)
        return lag

    def trouble(self) -> str:
        """As the protocol says."""
        return "" if client.is_connected(self._client) else client.complaint(self._options)

    def close(self) -> None:
        """As the protocol says."""
        try:
            self._consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_S * 1000)
        except errors.KafkaError:
            self._client.close()

    def _unstick(self) -> None:
        """Let partitions that were paused with unread records go on: its fetcher takes up their records only when it
        has none in hand, and it keeps in hand what it has read to the end."""
        fetcher = self._consumer._fetcher
        if fetcher._next_partition_records is not None and not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def _look_for_topic(self) -> None:
        """Its leader joins with what it knows: of a topic that was made a moment ago, nothing, and it asks the broker
        again only when all it knows is old."""
        now = clock.monotonic()
        if now >= self._look_at and client.is_connected(self._client):
            self._look_at = now + LOOK_AGAIN_S
            self.missing()

    def _seek_to_start(self) -> None:
        """Partitions without a committed offset begin at a moment in time, or at the end, also if nothing is younger.

        That is committed at once: whoever has the partition next, after a death, would else begin at a later end.
        """
        start_at = self._membership.start_at
        try:
            fresh = [one for one in self._consumer.assignment() if self._consumer.committed(one) is None]
            begin = self._consumer.end_offsets(fresh)
            if not isinstance(start_at, str):
                found = self._consumer.offsets_for_times(dict.fromkeys(fresh, round(start_at * 1000)))
                begin |= {partition: at.offset for partition, at in found.items() if at is not None}
            wanted = {partition: OffsetAndMetadata(offset) for partition, offset in begin.items()}
            self._consumer.commit(wanted, timeout_ms=COMMIT_TIMEOUT_S * 1000)
            for partition, offset in begin.items():
                self._consumer.seek(partition, offset)
        except _NOT_OURS:
            return  # a rebalance: the next poll asks again
        except errors.KafkaError as error:
            raise client.wrapped(error, self._options) from error

    def _pass_on_rebalances(self) -> None:
        while self._rebalances:
            assigned, partitions = self._rebalances.popleft()
            if assigned:
                self._assigned(partitions - self._ours)
            elif gone := partitions & self._ours:
                self._ours -= gone
                self._listener.revoked(gone)

    def _assigned(self, partitions: Collection[int]) -> None:
        self._ours.update(partitions)
        self._listener.assigned(partitions)

    def _each(self, call: Callable[[TopicPartition], None], partitions: Collection[int]) -> None:
        for partition in self._assigned_of(partitions):
            with contextlib.suppress(errors.IllegalStateError, KeyError):  # taken away by the library's thread just now
                call(partition)

    def _assigned_of(self, partitions: Collection[int]) -> list[TopicPartition]:
        assigned = self._consumer.assignment()
        return [named for named in map(self._named, partitions) if named in assigned]

    def _named(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)


class _Join:
    """Keeps the end of a join until a poll takes it up: the library throws away what ends between two polls and joins
    anew, and whoever leads makes all others join anew with that."""

    def __init__(self, coordinator: Any):
        self._coordinator = coordinator
        self._join = coordinator._do_join_and_sync_async
        self._complete = coordinator._on_join_complete_async
        self._ended: tuple[object, bytes] | None = None
        """The generation that it has led to, and the assignment."""
        coordinator._do_join_and_sync_async = self._join_once
        coordinator._on_join_complete_async = self._take_up

    async def _join_once(self) -> bytes:
        if self._ended is None or self._ended[0] is not self._coordinator._generation:
            assignment = await self._join()
            self._ended = self._coordinator._generation, assignment
        return self._ended[1]

    async def _take_up(self, *joined: object) -> None:
        self._ended = None
        await self._complete(*joined)


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    """Called on the library's thread, where nothing may wait and a commit raises: it only notes what is told."""

    def __init__(self, told: deque[tuple[bool, frozenset[int]]]):
        self._told = told

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Ours, those that were ours before included."""
        self._told.append((True, frozenset(one.partition for one in assigned)))

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Not ours any more, or lost long ago."""
        self._told.append((False, frozenset(one.partition for one in revoked)))
