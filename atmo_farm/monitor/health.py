"""Whether the farm is ready: every handler is connected, and makes progress or has nothing to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from atmo_farm import clock
from atmo_farm.ipc import gauges
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.cards import FarmCard, Kind, Life, WorkerCard
from atmo_farm.monitor.report import SILENT_S, Seen, silent_s

DROPS_HOLD_S = 30.0
"""After messages were dropped; as long as most probes leave between two of theirs, so that one sees it."""

LAG_PATIENCE_S = 30.0
"""How long the broker may keep messages for a handler that is idle and takes none."""

DEAD_S = 30.0
"""A master that is silent for so long is not alive."""

NANOSECONDS = 1_000_000_000


def is_alive(numbers: memoryview) -> bool:
    """Whether the master gives signs of life; `numbers` are its own."""
    return silent_s(numbers) < DEAD_S


def health(card: FarmCard | None, numbers: memoryview, seen: Sequence[Seen]) -> dict[str, Any]:
    """`{"ready": …, "why": [texts], "handlers": [{"name", "ready", "paused", "why"}], "processes": [as handlers]}`.

    A reload changes nothing in it: workers that begin beside others do not count before these are told to end. A paused
    handler does what it is to do.
    """
    groups: dict[tuple[str, str], list[Seen]] = {}
    for worker, counts in seen:
        if worker.life not in (Life.RETIRED, Life.DRAINING) and not worker.joining:
            groups.setdefault((worker.kind, worker.name), []).append((worker, counts))
    entries = {
        key: {"name": key[1], "ready": not why, "paused": paused, "why": why}
        for key in sorted(groups)
        if key[0] != Kind.MONITOR
        for paused in [any(worker.paused for worker, _ in groups[key])]
        for why in [[] if paused else list(reasons(groups[key]))]
    }
    why = list(_of_farm(card, numbers))
    return {
        "ready": not why and all(entry["ready"] for entry in entries.values()),
        "why": why,
        "handlers": [entry for (kind, _), entry in entries.items() if kind == Kind.CONSUMER],
        "processes": [entry for (kind, _), entry in entries.items() if kind != Kind.CONSUMER],
    }


def _of_farm(card: FarmCard | None, numbers: memoryview) -> Iterator[str]:
    silence_s = silent_s(numbers)
    if silence_s > SILENT_S:
        yield f"the master gave no sign of life for {silence_s:.0f} s"
    if card is None or card.doing in ("starting", "stopping"):
        yield f"the farm is {card.doing if card else 'starting'}"


def reasons(group: Sequence[Seen]) -> Iterator[str]:
    """Why one handler, or one process, is not ready; `group` is its workers."""
    now = clock.monotonic_ns()
    several = len(group) > 1
    for card, numbers in sorted(group, key=lambda one: one[0].number):
        who = f"worker {card.number}: " if several else ""
        yield from (f"{who}{why}" for why in _of_worker(card, numbers, now))
    yield from _lag(group, now)


def _of_worker(card: WorkerCard, numbers: memoryview, now: int) -> Iterator[str]:
    if card.life == Life.WAITING:
        yield f"waiting for {card.waits_for}"
    elif card.life != Life.READY:
        yield f"{card.life}: {card.failure}" if card.failure else card.life
    elif _age_s(now, numbers, Field.HEARTBEAT_NS) > SILENT_S:
        yield f"no sign of life for {_age_s(now, numbers, Field.HEARTBEAT_NS):.0f} s"
    elif card.kind == Kind.DATA_SOURCES:
        found = gauges.read_sources(numbers, card.sources)
        yield from (f"{name} is out of reach" for name, figures in found.items() if not figures.is_up)
    else:
        stands_s = min(_age_s(now, numbers, Field.PROGRESS_NS), _age_s(now, numbers, Field.IDLE_NS))
        held = numbers[Field.IN_FLIGHT] + numbers[Field.PENDING]
        if held and numbers[Field.IDLE_NS] and stands_s > numbers[Field.PATIENCE_MS] / 1000:
            yield f"nothing was settled for {stands_s:.0f} s, with {held} messages in hand"
        if numbers[Field.DROPPED_NS] and _age_s(now, numbers, Field.DROPPED_NS) < DROPS_HOLD_S:
            yield "messages are dropped: it is slower than they come"


def _lag(group: Sequence[Seen], now: int) -> Iterator[str]:
    """Messages wait at the broker, and of all workers none has any."""
    ready = [numbers for card, numbers in group if card.life == Life.READY and numbers[Field.IDLE_NS]]
    if not ready or any(numbers[Field.IN_FLIGHT] or numbers[Field.PENDING] for numbers in ready):
        return
    lags = sum(lag(ready).values())
    stands_s = min(_age_s(now, numbers, field) for numbers in ready for field in (Field.PROGRESS_NS, Field.NO_LAG_NS))
    if lags and stands_s > LAG_PATIENCE_S:
        yield f"nothing was settled for {stands_s:.0f} s, and {lags} messages wait at the broker"


def lag(workers: Sequence[memoryview]) -> dict[int, int]:
    """A handler's, by partition. Workers that share a consumer all see the same lag: it counts once."""
    found: dict[int, int] = {}
    for numbers in workers:
        for partition, count in gauges.read_lag(numbers).items():
            found[partition] = max(count, found.get(partition, 0))
    return found


def _age_s(now: int, numbers: memoryview, field: Field) -> float:
    return max(0, now - numbers[field]) / NANOSECONDS
