"""One record at a time: from writing it to reading its output, through the farm and through the bare loops.

Both client libraries; each output is committed, and the next record goes out when the one before is there.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from benchmarks import kafka_parts, parts
from benchmarks.kafka_parts import DRIVERS, QUIET, SIZE
from benchmarks.report import Check, Report, median

RECORDS = 300
WARM_UP = 50
BOUND_MS = 1.5


def run(options: argparse.Namespace) -> Report:
    """Alternate the sides for so many rounds, each library by itself."""
    report = Report("kafka-latency", unit="p99, ms")
    report.header = ("", "p50 ms", "p99 ms")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(kafka_parts.broker())
        for driver in DRIVERS:
            _measure(report, address, folder, driver, options.rounds or 7)
    return report


def _measure(report: Report, address: str, folder: Path, driver: str, rounds: int) -> None:
    ours, theirs = f"farm.{driver}", f"loop.{driver}"
    kafka_parts.make_topics(address, ours, theirs)
    measured: dict[str, list[tuple[float, float]]] = {ours: [], theirs: []}
    with contextlib.ExitStack() as stack:
        app = kafka_parts.hello_app(folder / driver, address, ours, driver)
        stack.enter_context(parts.farm(app))
        stack.enter_context(kafka_parts.loop(address, theirs, driver))
        asks = {topic: stack.enter_context(contextlib.closing(_Ask(address, topic))) for topic in measured}
        for ask in asks.values():
            ask.percentiles(WARM_UP)
        for _ in range(rounds):
            for topic, ask in asks.items():
                measured[topic].append(ask.percentiles(RECORDS))
    for name, topic in ((f"atmo-farm, {driver}", ours), (f"{driver} loop", theirs)):
        p50, p99 = (median(column) for column in zip(*measured[topic], strict=True))
        report.rows.append((name, f"{p50:.2f}", f"{p99:.2f}"))
        report.series[name] = [p99 for _, p99 in measured[topic]]
    added50, added99 = (
        median([one[at] - other[at] for one, other in zip(measured[ours], measured[theirs], strict=True)])
        for at in (0, 1)
    )
    report.rows.append((f"({driver}: added to p50)", f"{added50:.2f}", ""))
    report.checks.append(Check(f"{driver}: p99 added, ms", added99, "<=", BOUND_MS))


class _Ask:
    """Writes a record and waits for its output."""

    def __init__(self, address: str, topic: str):
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": address, "linger.ms": 0, **QUIET})
        self._consumer = Consumer(
            {"bootstrap.servers": address, "group.id": "ask", "enable.auto.commit": False, **QUIET}
        )
        self._consumer.assign([TopicPartition(f"out.{topic}", 0, OFFSET_END)])
        self._consumer.poll(1.0)  # it has found the end when it has asked for more

    def percentiles(self, count: int) -> tuple[float, float]:
        """p50 and p99 in milliseconds."""
        took = sorted(self._once() for _ in range(count))
        return took[count // 2] * 1000, took[count * 99 // 100] * 1000

    def close(self) -> None:
        """Disconnect."""
        self._producer.flush()
        self._consumer.close()

    def _once(self) -> float:
        began = time.perf_counter()
        self._producer.produce(self._topic, b"x" * SIZE)
        self._producer.poll(0)
        message = self._consumer.poll(kafka_parts.PATIENCE_S)
        assert message is not None and message.error() is None, f"{self._topic}: no output"
        return time.perf_counter() - began
