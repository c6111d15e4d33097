"""What `top` makes of two looks at a farm."""

from __future__ import annotations

from typing import Any

import pytest

from atmo_farm.cli.top_view import COLUMNS, cells, duration, ordered, quantile, rows
from atmo_farm.ipc.histogram import BUCKETS, upper_s


def entry(name: str, ok: int = 0, **more: Any) -> dict[str, Any]:
    """A handler as the verb tells it."""
    numbers = {"in_flight": 0, "failed": 0, "retried": 0, "dead": 0, "pool": 1, "cpu_s": 0.0, "memory": 1 << 20}
    there = {"state": "ready", "ready": 1, "wanted": 1, "lag": None, "attempts": [0] * BUCKETS}
    return {"name": name, "ok": ok, **numbers, **there, **more}


def look(at_s: float, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"at_s": at_s, "handlers": list(entries)}


def test_rates_are_those_between_two_looks() -> None:
    """Of counts, of processor time; gauges are the last."""
    first, second = [0] * BUCKETS, [0] * BUCKETS
    first[9] = 50
    second[9], second[3], second[5] = 50, 98, 2
    before = look(10.0, entry("a", ok=100, cpu_s=1.0, attempts=first))
    (row,) = rows(before, look(12.0, entry("a", ok=300, failed=1, cpu_s=2.5, attempts=second, in_flight=7, lag=4)))
    assert (row.rate, row.failed, row.cpu, row.in_flight, row.lag) == (100.0, 0.5, 0.75, 7, 4)
    assert (row.p50_s, row.p99_s) == (upper_s(3), upper_s(5))


def test_who_is_new_or_began_anew_has_no_rate() -> None:
    """Nor a negative one, when a process was replaced."""
    new, again = rows(look(1.0, entry("b", cpu_s=9.0)), look(2.0, entry("a", ok=5), entry("b", cpu_s=0.5)))
    assert (new.name, new.rate, new.p50_s, again.cpu) == ("a", 0.0, None, 0.0)
    (same,) = rows(look(1.0, entry("a")), look(1.0, entry("a", ok=5)))
    assert same.rate == 0.0


def test_order() -> None:
    """The largest number first, texts by the alphabet, names among equals; every column can be sorted by."""
    found = rows(
        look(0.0, entry("a"), entry("b"), entry("c")), look(1.0, entry("a", ok=1), entry("b", ok=2), entry("c", ok=2))
    )
    assert [row.name for row in ordered(found, "m")] == ["b", "c", "a"]
    assert [row.name for row in ordered(found, "h")] == ["a", "b", "c"]
    for key in COLUMNS:
        assert len(ordered(found, key)) == 3
    assert not COLUMNS.keys() & set("pqr"), "these keys do something else"


def test_cells() -> None:
    """As wide as the heading; what is not known is a dash."""
    heading, line = cells(rows(look(0.0, entry("a")), look(1.0, entry("a", ok=1234))))
    assert len(heading) == len(line) == len(COLUMNS)
    assert dict(zip(heading, line, strict=True)) == {
        "handler": "a", "state": "ready", "workers": "1/1", "msg/s": "1,234", "in flight": "0", "lag": "-", "p50": "-",
        "p99": "-", "err/s": "0", "retry/s": "0", "dead": "0", "pool": "1", "cpu %": "0", "MiB": "1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0"), (64e-6, "64µs"), (0.001024, "1.0ms"), (0.0328, "33ms"), (2.1, "2.1s"), (134.2, "134s")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_quantiles() -> None:
    """Of nothing there is none."""
    assert quantile([0, 0], 0.5) is None
    assert quantile([1, 1], 0.5) == upper_s(0)
    assert quantile([1, 1], 0.99) == upper_s(1)
