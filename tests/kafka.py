"""What tests of Kafka share: topics, records written and read past the farm, who notes rebalances, a driver's life."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing

import attrs
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewTopic

from atmo_farm.streams.kafka.driver import Consumer, Record
from tests.servers.kafka import KafkaServer

_numbers = itertools.count()


def new_name(prefix: str = "topic") -> str:
    """A topic or group that no other test has."""
    return f"{prefix}-{os.getpid()}-{next(_numbers)}"


def new_topic(server: KafkaServer, partitions: int = 1, **config: object) -> str:
    """A topic of its own; `config` by Kafka's names with `_` for `.`."""
    name = new_name()
    create_topic(server, name, partitions, **config)
    return name


def create_topic(server: KafkaServer, name: str, partitions: int = 1, **config: object) -> None:
    """A topic with this name."""
    settings = {key.replace("_", "."): str(value) for key, value in config.items()}
    with closing(KafkaAdminClient(bootstrap_servers=server.address())) as admin:
        admin.create_topics([NewTopic(name, partitions, -1, topic_configs=settings)])


def delete_topic(server: KafkaServer, name: str) -> None:
    """Gone when this returns, as far as the broker knows."""
    with closing(KafkaAdminClient(bootstrap_servers=server.address())) as admin:
        admin.delete_topics([name])


def delete_records(server: KafkaServer, topic: str, before: int) -> None:
    """As retention does: the records of partition 0 below this offset."""
    with closing(KafkaAdminClient(bootstrap_servers=server.address())) as admin:
        admin.delete_records({TopicPartition(topic, 0): before})


def write(server: KafkaServer, topic: str, values: Sequence[bytes], partition: int = 0, **options: object) -> None:
    """Put values into a partition; `options` are kafka-python's for a producer."""
    with closing(KafkaProducer(bootstrap_servers=server.address(), **options)) as producer:
        sent = [producer.send(topic, value, partition=partition) for value in values]
        producer.flush(30)
    for future in sent:
        future.get(0)


@attrs.frozen
class Read:
    """A record of a topic."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]


def read_all(server: KafkaServer, topic: str) -> list[Read]:
    """What a topic holds now, partition by partition."""
    with closing(KafkaConsumer(bootstrap_servers=server.address(), isolation_level="read_committed")) as consumer:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        found: list[Read] = []
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for records in consumer.poll(timeout_ms=1000).values():
                found += [Read(one.partition, one.key, one.value, dict(one.headers)) for one in records]
        return sorted(found, key=lambda one: one.partition)


def ends(server: KafkaServer, topic: str, decided: bool = False) -> dict[int, int]:
    """By partition: one above its last record; `decided`: that readers see who wait for transactions."""
    level = "read_committed" if decided else "read_uncommitted"
    with closing(KafkaConsumer(bootstrap_servers=server.address(), isolation_level=level)) as consumer:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
        return {one.partition: end for one, end in consumer.end_offsets(partitions).items()}


def committed(server: KafkaServer, group: str, topic: str) -> dict[int, int]:
    """By partition: the group's committed offset."""
    with closing(KafkaAdminClient(bootstrap_servers=server.address())) as admin:
        offsets = admin.list_group_offsets([group])[group]
        return {one.partition: found.offset for one, found in offsets.items() if one.topic == topic}


def config_of(server: KafkaServer, topic: str, key: str) -> str:
    """A setting of a topic by Kafka's name, where it is not the broker's default."""
    with closing(KafkaAdminClient(bootstrap_servers=server.address())) as admin:
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        return str(described["topic"][topic][key]["value"])


def members(server: KafkaServer, group: str) -> list[str]:
    """The static ids of a group's members."""
    with closing(KafkaAdminClient(bootstrap_servers=server.address())) as admin:
        return sorted(one["group_instance_id"] for one in admin.describe_groups([group])[group]["members"])


class Rebalances:
    """`driver.Listener` that keeps what is ours, and what was told."""

    def __init__(self) -> None:
        self.ours: set[int] = set()
        self.told: list[tuple[str, frozenset[int]]] = []
        self.commits: dict[int, int] = {}
        self.answers = 0
        """To commits."""

    def assigned(self, partitions: Collection[int]) -> None:
        """Ours."""
        assert not self.ours & set(partitions), "assigned twice"
        self.ours |= set(partitions)
        self.told.append(("assigned", frozenset(partitions)))

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The broker has these."""
        self.commits.update(offsets)
        self.answers += 1

    def uncommitted(self) -> None:
        """The broker has not."""
        self.answers += 1

    def revoking(self, partitions: Collection[int]) -> None:
        """Ours for a moment more."""
        assert self.ours >= set(partitions), "revoked without having been assigned"

    def revoked(self, partitions: Collection[int]) -> None:
        """Not ours."""
        assert self.ours >= set(partitions), "revoked without having been assigned"
        self.ours -= set(partitions)
        self.told.append(("revoked", frozenset(partitions)))


def poll_until(
    consumer: Consumer, enough: Callable[[dict[int, list[Record]]], bool], within_s: float = 20.0
) -> dict[int, list[Record]]:
    """Poll until what has come, by partition, is enough; AssertionError when it is not in time."""
    found: dict[int, list[Record]] = {}
    deadline = time.monotonic() + within_s
    while not enough(found):
        assert time.monotonic() < deadline, {partition: len(records) for partition, records in found.items()}
        _collect(found, consumer.poll(0.2))
    return found


def _collect(found: dict[int, list[Record]], polled: Mapping[int, Sequence[Record]]) -> None:
    for partition, records in polled.items():
        found.setdefault(partition, []).extend(records)


def total(found: Mapping[int, Sequence[Record]]) -> int:
    """How many records."""
    return sum(map(len, found.values()))
