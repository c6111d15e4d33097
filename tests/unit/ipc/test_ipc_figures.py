"""Histograms, lags and sources in a slot of the arena: what is written is what is read, and never anything else."""

from __future__ import annotations

from typing import Any

import hypothesis
from hypothesis import strategies

from atmo_farm.ipc import gauges, histogram
from atmo_farm.ipc.arena import FIRST_GAUGE, HISTOGRAMS, NUMBERS, Arena, Field
from atmo_farm.ipc.gauges import OTHERS, SourceFigures
from atmo_farm.ipc.histogram import BUCKETS, Timed


def test_the_parts_of_a_slot_do_not_overlap() -> None:
    """Fields, then the histograms, then what ends with the process."""
    assert max(Field) < HISTOGRAMS
    assert max(timed.begin for timed in Timed) + BUCKETS + 1 == FIRST_GAUGE < NUMBERS
    assert histogram.upper_s(BUCKETS - 1) > 86_400, "the longest timeout"


@hypothesis.given(strategies.lists(strategies.floats(0, 1e9)), strategies.sampled_from(Timed))
def test_a_histogram_counts_each_in_the_bucket_that_is_just_above(times: list[float], timed: Timed) -> None:
    """However long it took; and no other histogram has it."""
    slot = Arena().slot(0)
    for seconds in times:
        histogram.count(slot, timed, seconds)
    found = histogram.read([slot], timed)
    for bucket in range(BUCKETS - 1):
        assert sum(found.counts[: bucket + 1]) == sum(seconds < histogram.upper_s(bucket) for seconds in times)
    assert sum(found.counts) == len(times)
    assert abs(found.sum_s - sum(times)) <= 1e-6 * len(times) + 1e-9 * sum(times)
    for other in set(Timed) - {timed}:
        assert not any(histogram.read([slot], other).counts)


def test_readings_of_several_slots_are_added() -> None:
    """And no slot at all is an empty histogram."""
    arena = Arena()
    for index in range(3):
        histogram.count(arena.slot(index), Timed.CACHE, 0.5)
    found = histogram.read([arena.slot(index) for index in range(3)], Timed.CACHE)
    assert (sum(found.counts), found.sum_s) == (3, 1.5)
    assert histogram.read([], Timed.CACHE).counts == (0,) * BUCKETS


@hypothesis.given(strategies.dictionaries(strategies.integers(0, 1 << 31), strategies.integers(0, 1 << 62)))
def test_lags_of_many_partitions_are_bounded(lag: dict[int, int]) -> None:
    """The largest are kept, and the sum of the rest; the next ones replace them."""
    slot = Arena().slot(0)
    gauges.write_lag(slot, dict.fromkeys(range(100), 1))
    gauges.write_lag(slot, lag)
    found = gauges.read_lag(slot)
    assert sum(found.values()) == sum(lag.values())
    rest = found.pop(OTHERS, 0)
    assert found.items() <= lag.items()
    assert len(found) == min(len(lag), 26) or (len(found) == 25 and rest <= sum(lag.values()))


def test_sources_by_place() -> None:
    """Those that nothing is known of are left out, and those without a place."""
    slot = Arena().slot(0)
    up = SourceFigures(is_up=True, connections=3, busy=2, waiting=7, outages=1)
    down = SourceFigures(is_up=False, connections=0, busy=0, waiting=0, outages=4)
    gauges.write_source(slot, 0, up)
    gauges.write_source(slot, 2, down)
    gauges.write_source(slot, 500, down)
    names: list[Any] = ["cache", "database a", "database b"]
    assert gauges.read_sources(slot, names) == {"cache": up, "database b": down}
    assert gauges.read_sources(slot, [str(number) for number in range(500)]).keys() == {"0", "2"}
    assert gauges.outages(slot, 2) == 4 and gauges.outages(slot, 500) == 0
