"""The farm as Prometheus metrics: rendered by prometheus-client from the arena's cards and counts.

Labels are bounded: handlers, their workers and partitions (the largest of each worker), and words of this file.
docs/operations.md says what each metric means.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from atmo_farm import __version__, clock
from atmo_farm.ipc import gauges, histogram
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.cards import FarmCard, Kind, Life, WorkerCard
from atmo_farm.ipc.histogram import Timed
from atmo_farm.monitor import health, machine
from atmo_farm.monitor.report import Seen, silent_s

PREFIX = "atmo_farm_"

COUNTERS: Mapping[str, tuple[Field, str]] = {
    "received": (Field.RECEIVED, "Messages received."),
    "redelivered": (Field.REDELIVERED, "Messages received not for the first time."),
    "published": (Field.PUBLISHED, "Outputs published."),
    "retries": (Field.RETRIED, "Attempts that failed and were to be repeated."),
    "dead_letters": (Field.DEAD, "Dead letters that are kept safely."),
    "dropped": (Field.DROPPED, "Messages lost before they were looked at: core NATS came faster than the handler is."),
    "timeouts": (Field.TIMEOUTS, "Attempts that reached their deadline."),
    "traps": (Field.TRAPS, "Attempts whose guest trapped or wanted too much memory."),
    "pool_waits": (Field.POOL_WAITS, "Runs that found all instances of their function busy."),
    "guest_log_lines_dropped": (Field.GUEST_LINES_DROPPED, "Log lines of guests over their rate."),
    "spans": (Field.SPANS, "Spans of traces that the collector took."),
    "spans_dropped": (Field.SPANS_DROPPED, "Spans that it did not take in time, or refused."),
}
"""One value for each handler."""

OUTCOMES = {"ok": Field.OK, "failed": Field.FAILED, "cancelled": Field.CANCELLED}

GAUGES: Mapping[str, tuple[Field, str]] = {
    "in_flight": (Field.IN_FLIGHT, "Messages in hand."),
    "pending": (Field.PENDING, "Messages received that wait for a place in flight."),
    "pool_instances": (Field.POOL, "Wasm instances alive."),
}

CAUSES = {
    "signal": Field.KILLED,
    "replaced": Field.REPLACED,
    "boot": Field.BOOT_FAILED,
    "broker": Field.BROKER_CLOSED,
    "exit": Field.EXITED,
}

HOST_CALLS = {"cache": Timed.CACHE, "database": Timed.DATABASE, "http": Timed.HTTP}

FIRST_BUCKET, LAST_BUCKET = 2, 21
"""Shown as buckets of their own: from 64 µs to 33 s."""

LIVES = tuple(life for life in Life if life != Life.RETIRED)


class FarmCollector(Collector):
    """One scrape's view."""

    def __init__(self, card: FarmCard | None, numbers: memoryview, seen: Sequence[Seen]):
        self._card = card
        self._numbers = numbers
        self._seen = seen
        self._there = [(worker, counts) for worker, counts in seen if worker.life != Life.RETIRED]
        self._named = {(worker.kind, worker.name) for worker, _ in self._there}

    def collect(self) -> Iterable[Metric]:
        """All families."""
        yield from self._farm()
        yield from self._workers()
        yield from self._handlers()
        yield from self._sources()

    def _farm(self) -> Iterator[Metric]:
        card = self._card
        build = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily(f"{PREFIX}build", "The farm's own version.", build)
        app = {"app": card.app if card else "", "app_version": card.app_version if card else ""}
        yield InfoMetricFamily(f"{PREFIX}app", "The application.", app)
        found = health.health(card, self._numbers, self._seen)
        for name, value, text in (
            ("ready", float(found["ready"]), "1 where /ready says so."),
            ("generation", card.generation if card else 0, "The generation of the application in force."),
            ("uptime_seconds", clock.monotonic() - card.since if card else 0.0, "Since the master's start."),
            ("master_silent_seconds", silent_s(self._numbers), "Since the master's last sign of life."),
        ):
            yield GaugeMetricFamily(f"{PREFIX}{name}", text, float(value))
        for name, text in (("ready", "1 where /ready says so."), ("paused", "1 while it is paused.")):
            family = GaugeMetricFamily(f"{PREFIX}handler_{name}", text, labels=["handler"])
            for entry in found["handlers"]:
                family.add_metric([entry["name"]], float(entry[name]))
            yield family

    def _workers(self) -> Iterator[Metric]:
        labels = ["kind", "name"]
        states = GaugeMetricFamily(f"{PREFIX}workers", "Workers by state.", labels=[*labels, "state"])
        ends = CounterMetricFamily(
            f"{PREFIX}restarts", "Processes that ended without being told to.", labels=[*labels, "cause"]
        )
        lines = CounterMetricFamily(f"{PREFIX}log_lines_dropped", "Log lines that were not written.", labels=labels)
        for kind, name in sorted(self._named):
            lives = [worker.life for worker, _ in self._there if (worker.kind, worker.name) == (kind, name)]
            slots = self._slots(kind, name)
            for life in LIVES:
                states.add_metric([kind, name, life], lives.count(life))
            for cause, field in CAUSES.items():
                ends.add_metric([kind, name, cause], _sum(slots, field))
            lines.add_metric([kind, name], _sum(slots, Field.LOG_LINES_DROPPED))
        yield from (states, ends, lines)
        each = [*labels, "worker"]
        memory = GaugeMetricFamily(f"{PREFIX}memory_bytes", "Resident memory of a process.", labels=each)
        cpu = CounterMetricFamily(f"{PREFIX}cpu_seconds", "Processor time of a process, from its fork on.", labels=each)
        pids = [(worker.kind, worker.name, str(worker.number), worker.pid) for worker, _ in self._there if worker.pid]
        if self._card is not None:
            pids.append(("master", "master", "0", self._card.pid))
        used: dict[tuple[str, str, str], machine.Usage] = {}
        for *key, pid in pids:  # while a reload replaces a worker there are two of its number
            if (usage := machine.usage(pid)) is not None:
                place = (key[0], key[1], key[2])
                used[place] = usage if place not in used else used[place] + usage
        for place, usage in used.items():
            memory.add_metric(list(place), usage.memory)
            cpu.add_metric(list(place), usage.cpu_s)
        yield from (memory, cpu)

    def _handlers(self) -> Iterator[Metric]:
        names = sorted(name for kind, name in self._named if kind == Kind.CONSUMER)
        slots = {name: self._slots(Kind.CONSUMER, name) for name in names}
        there = {
            name: [counts for worker, counts in self._there if (worker.kind, worker.name) == (Kind.CONSUMER, name)]
            for name in names
        }
        for key, (field, text) in COUNTERS.items():
            counter = CounterMetricFamily(f"{PREFIX}{key}", text, labels=["handler"])
            for name in names:
                counter.add_metric([name], _sum(slots[name], field))
            yield counter
        settled = CounterMetricFamily(f"{PREFIX}settled", "Messages that have ended.", labels=["handler", "outcome"])
        for name in names:
            for outcome, field in OUTCOMES.items():
                settled.add_metric([name, outcome], _sum(slots[name], field))
        yield settled
        for key, (field, text) in GAUGES.items():
            gauge = GaugeMetricFamily(f"{PREFIX}{key}", text, labels=["handler"])
            for name in names:
                gauge.add_metric([name], _sum(there[name], field))
            yield gauge
        yield from self._progress(there)
        attempts = HistogramMetricFamily(
            f"{PREFIX}attempt_seconds", "Attempts: all steps of a message, and its output.", labels=["handler"]
        )
        calls = HistogramMetricFamily(
            f"{PREFIX}host_call_seconds", "Calls of guests that wait for something.", labels=["handler", "call"]
        )
        for name in names:
            _add(attempts, [name], histogram.read(slots[name], Timed.ATTEMPT))
            for call, timed in HOST_CALLS.items():
                reading = histogram.read(slots[name], timed)
                if any(reading.counts):  # most handlers make few kinds, and a histogram is 23 lines
                    _add(calls, [name, call], reading)
        yield from (attempts, calls)

    def _progress(self, there: Mapping[str, Sequence[memoryview]]) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            f"{PREFIX}lag", "Messages that the broker has not delivered yet.", labels=["handler", "partition"]
        )
        since = GaugeMetricFamily(
            f"{PREFIX}unsettled_seconds", "Since a message was last settled or found to need another attempt.",
            labels=["handler"],
        )  # fmt: skip
        now = clock.monotonic_ns()
        for name, slots in there.items():
            for partition, count in sorted(health.lag(slots).items()):
                lag.add_metric([name, "others" if partition == gauges.OTHERS else str(partition)], count)
            if last := max((numbers[Field.PROGRESS_NS] for numbers in slots), default=0):
                since.add_metric([name], max(0, now - last) / health.NANOSECONDS)
        yield from (lag, since)

    def _sources(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(f"{PREFIX}source_up", "0 while the breaker of a data source is open.", labels=["source"])
        outages = CounterMetricFamily(f"{PREFIX}source_outages", "How often it opened.", labels=["source"])
        connections = GaugeMetricFamily(
            f"{PREFIX}source_connections", "Connections of its pool.", labels=["source", "state"]
        )
        waiting = GaugeMetricFamily(
            f"{PREFIX}source_waiting", "Calls that wait for a connection.", labels=["source"]
        )  # fmt: skip
        proxies: list[Seen] = [one for one in self._there if one[0].kind == Kind.DATA_SOURCES]
        for name, figures in self._newest(proxies).items():
            up.add_metric([name], float(figures.is_up))
            outages.add_metric([name], figures.outages)
            connections.add_metric([name, "busy"], figures.busy)
            connections.add_metric([name, "idle"], figures.connections - figures.busy)
            waiting.add_metric([name], figures.waiting)
        yield from (up, outages, connections, waiting)

    def _newest(self, proxies: Sequence[Seen]) -> Mapping[str, gauges.SourceFigures]:
        def age(one: tuple[WorkerCard, memoryview]) -> tuple[bool, int]:
            return one[0].life != Life.DRAINING, one[0].generation

        found: dict[str, gauges.SourceFigures] = {}
        for card, numbers in sorted(proxies, key=age):
            found.update(gauges.read_sources(numbers, card.sources))
        return found

    def _slots(self, kind: str, name: str) -> list[memoryview]:
        """Of a handler's workers, and of those that are gone."""
        return [counts for worker, counts in self._seen if (worker.kind, worker.name) == (kind, name)]


def render(accept: str, collector: Collector) -> tuple[bytes, str]:
    """The text, and its content type: OpenMetrics for who accepts it, else Prometheus' own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


def _sum(slots: Sequence[memoryview], field: Field) -> int:
    return sum(numbers[field] for numbers in slots)


def _add(family: HistogramMetricFamily, labels: Sequence[str], reading: histogram.Reading) -> None:
    total, buckets = 0, []
    for bucket, count in enumerate(reading.counts):
        total += count
        if FIRST_BUCKET <= bucket <= LAST_BUCKET:
            buckets.append((str(histogram.upper_s(bucket)), float(total)))
    family.add_metric(labels, [*buckets, ("+Inf", float(total))], reading.sum_s)
