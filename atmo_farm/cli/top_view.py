"""What `top` shows: rows of two looks at a farm, and their order. Nothing here knows of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from atmo_farm.ipc.histogram import upper_s

Entry = Mapping[str, Any]


@attrs.frozen
class Row:
    """One handler between two looks; rates are per second."""

    name: str
    state: str
    ready: str
    rate: float
    """Messages that ended well."""
    in_flight: int
    lag: int | None
    p50_s: float | None
    p99_s: float | None
    """Upper bounds of what half, and 99 of 100 attempts took: powers of two. None: there was none."""
    failed: float
    retried: float
    dead: int
    """All there ever were."""
    pool: int
    cpu: float
    """Of one core."""
    memory: int


COLUMNS: Mapping[str, tuple[str, Callable[[Row], Any], Callable[[Row], str]]] = {
    "h": ("handler", lambda row: row.name, lambda row: row.name),
    "s": ("state", lambda row: row.state, lambda row: row.state),
    "w": ("workers", lambda row: row.ready, lambda row: row.ready),
    "m": ("msg/s", lambda row: -row.rate, lambda row: _number(row.rate)),
    "i": ("in flight", lambda row: -row.in_flight, lambda row: str(row.in_flight)),
    "l": ("lag", lambda row: -(row.lag or 0), lambda row: "-" if row.lag is None else str(row.lag)),
    "5": ("p50", lambda row: -(row.p50_s or 0.0), lambda row: duration(row.p50_s)),
    "9": ("p99", lambda row: -(row.p99_s or 0.0), lambda row: duration(row.p99_s)),
    "e": ("err/s", lambda row: -row.failed, lambda row: _number(row.failed)),
    "t": ("retry/s", lambda row: -row.retried, lambda row: _number(row.retried)),
    "d": ("dead", lambda row: -row.dead, lambda row: str(row.dead)),
    "o": ("pool", lambda row: -row.pool, lambda row: str(row.pool)),
    "c": ("cpu %", lambda row: -row.cpu, lambda row: f"{100 * row.cpu:.0f}"),
    "b": ("MiB", lambda row: -row.memory, lambda row: f"{row.memory / (1 << 20):.0f}"),
}
"""Key that sorts by it → heading, what is sorted by, what is shown. The first three are texts."""

TEXTS = 3


def rows(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Row]:
    """Of two results of the verb; a handler that is new has no rates yet."""
    seconds = now["at_s"] - before["at_s"]
    known = {entry["name"]: entry for entry in before["handlers"]}
    return [_row(known.get(entry["name"], entry), entry, seconds) for entry in now["handlers"]]


def _row(before: Entry, now: Entry, seconds: float) -> Row:
    def rate(key: str) -> float:
        return max(0.0, (now[key] - before[key]) / seconds) if seconds > 0 else 0.0

    attempts = [new - old for old, new in zip(before["attempts"], now["attempts"], strict=True)]
    return Row(
        name=now["name"],
        state=now["state"],
        ready=f"{now['ready']}/{now['wanted']}",
        rate=rate("ok"),
        in_flight=now["in_flight"],
        lag=now["lag"],
        p50_s=quantile(attempts, 0.5),
        p99_s=quantile(attempts, 0.99),
        failed=rate("failed"),
        retried=rate("retried"),
        dead=now["dead"],
        pool=now["pool"],
        cpu=rate("cpu_s"),
        memory=now["memory"],
    )


def quantile(counts: Sequence[int], share: float) -> float | None:
    """What so large a share of all that is counted took less than."""
    left = share * sum(counts)
    if left <= 0:
        return None
    for bucket, count in enumerate(counts):
        left -= count
        if left <= 0:
            return upper_s(bucket)
    return upper_s(len(counts) - 1)


def ordered(found: Sequence[Row], key: str) -> list[Row]:
    """By a column; the largest number first, texts by the alphabet; then by name."""
    value = COLUMNS[key][1]
    return sorted(found, key=lambda row: (value(row), row.name))


def cells(found: Sequence[Row]) -> list[list[str]]:
    """The heading, and a line for each row."""
    return [[heading for heading, _, _ in COLUMNS.values()]] + [
        [shown(row) for _, _, shown in COLUMNS.values()] for row in found
    ]


def duration(seconds: float | None) -> str:
    """In three digits: `-`, `64µs`, `1.0ms`, `33ms`, `2.1s`."""
    if seconds is None:
        return "-"
    for unit, length in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= length:
            value = seconds / length
            return f"{value:.1f}{unit}" if value < 10 and unit != "µs" else f"{value:.0f}{unit}"
    return "0"


def _number(value: float) -> str:
    return f"{value:.1f}" if 0 < value < 10 else f"{value:,.0f}"
