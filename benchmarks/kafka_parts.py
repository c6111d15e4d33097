"""What the Kafka benchmarks share: a broker, records for a topic, and when a group is done with them."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks import parts
from tests.servers.kafka import KafkaServer

PAYLOAD = b"x" * 100
DRIVERS = ("kafka-python", "librdkafka")
LOOPS = {"kafka-python": "kafka_python_loop", "librdkafka": "librdkafka_loop"}
PATIENCE_S = 60.0
LOOK_S = 0.01


@contextlib.contextmanager
def broker() -> Iterator[str]:
    """A broker of its own; gives its address."""
    with tempfile.TemporaryDirectory() as folder:
        server = KafkaServer(Path(folder, "kafka"))
        server.start()
        try:
            yield server.address()
        finally:
            server.stop()


def make_topics(address: str, *names: str, partitions: int = 1) -> None:
    """Each with so many partitions, and with out.NAME, which has one."""
    topics = [NewTopic(name, partitions, 1) for name in names] + [NewTopic(f"out.{name}", 1, 1) for name in names]
    admin = AdminClient({"bootstrap.servers": address})
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
    """Records into a topic, and the group of its name behind them."""

    def __init__(self, address: str, topic: str, partitions: int = 1):
        self._topic = topic
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]
        self._producer = Producer(
            {"bootstrap.servers": address, "queue.buffering.max.messages": 1_000_000, "linger.ms": 5}
        )
        # It never joins: it only asks what the group has committed, and where topics end.
        self._watcher = Consumer({"bootstrap.servers": address, "group.id": topic})
        self._written = 0

    def run(self, count: int, values: Sequence[bytes] = (PAYLOAD,)) -> float:
        """Write so many, round the partitions, and wait until the group has committed them all and each has one output;
        returns the seconds."""
        began = time.perf_counter()
        for number in range(count):
            partition = self._partitions[number % len(self._partitions)].partition
            self._producer.produce(self._topic, values[number % len(values)], partition=partition)
            self._producer.poll(0)
        assert not self._producer.flush(PATIENCE_S), "the broker does not take the load"
        self._written += count
        while self._committed() < self._written:
            assert time.perf_counter() - began < PATIENCE_S, f"{self._topic}: {self._committed()} of {self._written}"
            time.sleep(LOOK_S)
        seconds = time.perf_counter() - began
        assert self.outputs() == self._written, f"{self._topic}: {self.outputs()} outputs of {self._written}"
        return seconds

    def close(self) -> None:
        """Disconnect."""
        self._watcher.close()

    def outputs(self) -> int:
        """How many there are."""
        return int(self._watcher.get_watermark_offsets(TopicPartition(f"out.{self._topic}", 0), timeout=10)[1])

    def _committed(self) -> int:
        return sum(max(0, one.offset) for one in self._watcher.committed(self._partitions, timeout=10))
