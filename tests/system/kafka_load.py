"""A handler on Kafka, a steady load of it, and its ledger (tests/ledger.py).

Ids are numbers from 1, at the end of each value. Number n is in partition n % PARTITIONS and has key n % KEYS, so all
of a key are in one partition. Outputs go to a topic of one partition, which shows the order in which they were written.
What is done again is there again: the ledger's `worked` counts it, its `output` has each once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from tests.farm import add_guest, write_directive
from tests.kafka import committed, new_topic, read_all
from tests.ledger import Ledger
from tests.servers.kafka import KafkaServer
from tests.system.background import BackgroundLoad
from tests.system.conftest import TestFarm
from tests.unit.runtime.wat_guests import POLL, guest, subscription

PARTITIONS, KEYS = 4, 8
IN_FLIGHT = 32
"""`maxInFlight` of each worker: so many records may be done again for each of its deaths."""

PATIENCE_S = 60.0
_CLIENT = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200, "log_level": 0}


@attrs.frozen
class Work:
    """What a handler reads and writes; its name is `work`."""

    server: KafkaServer
    driver: str
    topic: str
    out: str
    dead: str

    @classmethod
    def on(cls, server: KafkaServer, driver: str) -> Work:
        """New topics."""
        topic = new_topic(server, PARTITIONS)
        return cls(server, driver, topic, new_topic(server), f"{topic}.dead")

    def serve(self, farm: TestFarm, step: str = "fn: hello", *more: str) -> TestFarm:
        """Write a farm's Directive; `more` are lines of the handler's YAML."""
        add_guest(farm.app, "c", "trapping", "trapping")
        lines = (f"group: {self.topic}", f"maxInFlight: {IN_FLIGHT}", f"respondTo: {self.out}", *more)
        write_directive(
            farm.app,
            f"connections:\n  kafka: {{brokerAddress: '{self.server.address()}', driver: {self.driver}}}\n"
            f"handlers:\n  - {{type: stream, source: kafka, resource: {self.topic}, name: work, startAt: earliest,\n"
            f"     deadLetter: {{resource: {self.dead}}}, steps: [{{{step}}}],\n     {', '.join(lines)}}}\n",
        )
        return farm

    def load(
        self, per_s: float = 200, count: int = 1 << 30, data: Callable[[int], bytes] = lambda n: b"%d" % n
    ) -> KafkaLoad:
        """Not begun; `data` makes a value of an id."""
        return KafkaLoad(self, per_s, count, data)


class KafkaLoad(BackgroundLoad):
    """`with work.load(per_s=200) as load:` writes to the end of the block, or to `finish`: that waits until all is
    settled and fills the ledger. What the broker does not take is offered again by the library, each once and in order.
    """

    def __init__(self, work: Work, per_s: float, count: int, data: Callable[[int], bytes]):
        super().__init__(work.topic)
        self.outputs: list[int] = []
        """Their numbers in the order of the output topic."""
        self._work, self._per_s, self._count, self._data = work, per_s, count, data
        self._number = 0
        self._newest = [0] * PARTITIONS
        """By partition: the highest number that came out."""
        self._given = [0] * PARTITIONS
        """By partition: how many came out."""
        self._ends: dict[int, int] = {}

    def finish(self, patience_s: float = PATIENCE_S) -> Ledger:
        """As ever."""
        return super().finish(patience_s)

    def wait_worked(self, more: int, patience_s: float = PATIENCE_S) -> None:
        """Until so many outputs more are there."""
        wanted = len(self.outputs) + more
        self._wait(lambda: len(self.outputs) >= wanted, patience_s)

    def back_after_s(self, patience_s: float = PATIENCE_S) -> float:
        """Seconds until each partition has given an output of what is offered from now on."""
        began, number = time.monotonic(), self._number
        self._wait(lambda: all(newest > number for newest in self._newest), patience_s)
        return time.monotonic() - began

    def again_after_s(self, patience_s: float = PATIENCE_S) -> float:
        """Seconds until each partition has given an output more, of whatever was offered."""
        began, before = time.monotonic(), list(self._given)
        self._wait(lambda: all(now > then for now, then in zip(self._given, before, strict=True)), patience_s)
        return time.monotonic() - began

    def _wait(self, holds: Callable[[], bool], patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not holds():
            assert self._error is None, self._error
            assert time.monotonic() < deadline, f"not in {patience_s} s: {len(self.outputs)} outputs, {self._newest}"
            time.sleep(0.005)

    def _run(self) -> None:
        servers = {"bootstrap.servers": self._work.server.address(), **_CLIENT}
        # one request at a time: with more, a leader that is killed may end an idempotent producer for good
        alone = {"enable.idempotence": True, "max.in.flight": 1}
        producer = Producer({**servers, **alone, "linger.ms": 2})
        consumer = Consumer({**servers, "group.id": "nobody", "enable.auto.commit": False})
        consumer.assign([TopicPartition(self._work.out, 0, OFFSET_BEGINNING)])
        began = time.monotonic()
        while not self._stop.is_set():
            while self._number < min(self._count, int((time.monotonic() - began) * self._per_s)):
                self._write(producer)
            producer.poll(0)
            self._read(consumer, 0.005)
        if self._patience_s:
            deadline = time.monotonic() + self._patience_s
            producer.flush(self._patience_s)
            self._settled(deadline)
            written = len(read_all(self._work.server, self._work.out))
            while sum(self.ledger.worked.values()) < written and time.monotonic() < deadline:
                self._read(consumer, 0.05)
            self.ledger.output.update(self.ledger.worked.keys())
            self.ledger.dead.update([_id(one.value) for one in read_all(self._work.server, self._work.dead)])
        consumer.close()
        producer.purge()

    def _write(self, producer: Producer) -> None:
        number = self._number + 1
        self.ledger.offered.add(str(number))

        def accepted(error: object, message: object) -> None:
            if error is None:
                self.ledger.published.add(str(number))
                self._ends[message.partition()] = message.offset() + 1  # type: ignore[attr-defined]

        key, partition = b"%d" % (number % KEYS), number % PARTITIONS
        producer.produce(self._work.topic, self._data(number), key, partition, on_delivery=accepted)
        self._number = number

    def _read(self, consumer: Consumer, timeout_s: float) -> None:
        for message in consumer.consume(500, timeout_s):
            if message.error() is None:
                name = _id(message.value())
                self.ledger.worked[name] += 1
                self.outputs.append(int(name))
                self._given[int(name) % PARTITIONS] += 1
                self._newest[int(name) % PARTITIONS] = max(self._newest[int(name) % PARTITIONS], int(name))

    def _settled(self, deadline: float) -> None:
        while True:
            done = committed(self._work.server, self._work.topic, self._work.topic)
            self.ledger.unsettled = sum(max(0, end - max(0, done.get(one, 0))) for one, end in self._ends.items())
            if self.ledger.unsettled == 0 or time.monotonic() > deadline:
                return
            time.sleep(0.05)


def waits(milliseconds: str) -> bytes:
    """A module that answers its input after so long: WAT of an i32, `$n` is the last byte of the input."""
    return guest(
        "(local.set $n (i32.load8_u (i32.sub (i32.add (local.get $ptr) (local.get $len)) (i32.const 1))))"
        f"(i64.store (i32.const 88) (i64.mul (i64.extend_i32_u {milliseconds}) (i64.const 1000000)))"
        "(drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 200)))"
        "(call $result (local.get $ptr) (local.get $len) (local.get $ident))",
        imports=POLL,
        items=f'(data (i32.const 64) "{subscription(1, 0, 1)}")',
    )


def verify_order(outputs: Sequence[int], step: int, back: int) -> int:
    """Numbers that are equal modulo `step` came in their order: none before the one before it. Each of these sequences
    may go back, to do again what was in flight, at most `back` times; returns how often any did."""
    highest: dict[int, int] = {}
    last: dict[int, int] = {}
    turns: dict[int, int] = {}
    for number in outputs:
        lane = number % step
        expected = highest.get(lane, (lane or step) - step) + step
        assert number <= expected, f"{number} came before {expected}"
        highest[lane] = max(number, highest.get(lane, 0))
        turns[lane] = turns.get(lane, 0) + (number <= last.get(lane, 0))
        last[lane] = number
    assert max(turns.values()) <= back, f"went back {turns}"
    return sum(turns.values())


def _id(value: bytes | None) -> str:
    return (value or b"").rpartition(b" ")[2].decode()
