"""What the Kafka benchmarks share: a broker, records for a topic, and when a group is done with them."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import parts
from tests.servers.kafka import KafkaServer

SIZE = 100
"""Bytes of a value."""
DRIVERS = ("kafka-python", "librdkafka")
LOOPS = {"kafka-python": "kafka_python_loop", "librdkafka": "librdkafka_loop"}
QUIET = {"log_level": 0}
"""Of clients that may outlive the broker for a moment."""
PATIENCE_S = 60.0
LOOK_S = 0.01
SESSION = "broker.session.timeout.ms=20000"
"""The tests' broker takes itself for dead after a second, which a busy machine may need."""


@contextlib.contextmanager
def broker() -> Iterator[str]:
    """A broker of its own; gives its address."""
    with tempfile.TemporaryDirectory() as folder:
        server = KafkaServer(Path(folder, "kafka"), SESSION)
        server.start()
        try:
            yield server.address()
        finally:
            server.stop()


def make_topics(address: str, *names: str, partitions: int = 1) -> None:
    """Each with so many partitions, and with out.NAME, which has one."""
    topics = [NewTopic(name, partitions, 1) for name in names] + [NewTopic(f"out.{name}", 1, 1) for name in names]
    admin = AdminClient({"bootstrap.servers": address, **QUIET})
    for future in admin.create_topics(topics).values():
        future.result()


def hello_app(folder: Path, address: str, topic: str, driver: str, workers: int = 1) -> Path:
    """One handler: `hello` from a topic into out.TOPIC, as a group of the topic's name."""
    parts.hello_app(folder, "nats://127.0.0.1", handlers=0)
    (folder / "Directive.yaml").write_text(
        "identifier: com.example.bench\nappVersion: v1.0.0\natmoVersion: v0.4.7\n"
        f"connections:\n  kafka: {{brokerAddress: {address}, driver: {driver}}}\n"
        f"handlers:\n  - type: stream\n    source: kafka\n    resource: {topic}\n    group: {topic}\n"
        f"    startAt: earliest\n    respondTo: out.{topic}\n    workers: {workers}\n    steps:\n      - fn: greet\n"
    )
    return folder


@contextlib.contextmanager
def loop(address: str, topic: str, driver: str) -> Iterator[int]:
    """The bare loop of the same client library, as a group of the topic's name; gives its pid."""
    with parts.peer(LOOPS[driver], address, topic) as pid:
        yield pid


class Load:
    """Records into a topic, and the group of its name behind them. Each value tells its partition and number there."""

    def __init__(self, address: str, topic: str, partitions: int = 1):
        self._topic = topic
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]
        self._output = TopicPartition(f"out.{topic}", 0, OFFSET_BEGINNING)
        self._producer = Producer({"bootstrap.servers": address, "queue.buffering.max.messages": 1_000_000, **QUIET})
        # It never joins: it asks what the group has committed, and reads the outputs.
        self._watcher = Consumer(
            {"bootstrap.servers": address, "group.id": topic, "enable.auto.commit": False, **QUIET}
        )
        self._written = 0

    def run(self, count: int) -> float:
        """Write so many, round the partitions, and wait until the group has committed them all and each has an output;
        returns the seconds."""
        began = time.perf_counter()
        for number in range(self._written, self._written + count):
            sequence, partition = divmod(number, len(self._partitions))
            value = (b"%d %d " % (partition, sequence)).ljust(SIZE, b"x")
            self._producer.produce(self._topic, value, partition=partition)
        assert not self._producer.flush(PATIENCE_S), "the broker does not take the load"
        self._written += count
        while self._committed() < self._written:
            assert time.perf_counter() - began < PATIENCE_S, f"{self._topic}: {self._committed()} of {self._written}"
            time.sleep(LOOK_S)
        seconds = time.perf_counter() - began
        outputs = self._watcher.get_watermark_offsets(self._output, timeout=PATIENCE_S)[1]
        assert outputs >= self._written, f"{self._topic}: {outputs} outputs of {self._written}"
        return seconds

    def disorder(self) -> int:
        """How many outputs of a partition came before one that was written earlier. One that came again is none."""
        self._watcher.assign([self._output])
        end = self._watcher.get_watermark_offsets(self._output, timeout=PATIENCE_S)[1]
        following = dict.fromkeys(range(len(self._partitions)), 0)
        found = offset = 0
        while offset < end:
            message = self._watcher.poll(PATIENCE_S)
            assert message is not None and message.error() is None, "cannot read the outputs"
            partition, sequence = map(int, message.value().split()[1:3])
            found += sequence > following[partition]
            following[partition] = max(following[partition], sequence + 1)
            offset = message.offset() + 1
        return found

    def close(self) -> None:
        """Disconnect."""
        self._watcher.close()

    def _committed(self) -> int:
        return sum(max(0, one.offset) for one in self._watcher.committed(self._partitions, timeout=PATIENCE_S))
