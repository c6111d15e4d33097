"""How far a partition is processed without a gap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo_farm.streams.kafka.watermark import Watermark


def test_it_begins_with_nothing() -> None:
    """Before the first record there is nothing to commit."""
    mark = Watermark()
    assert (mark.position, mark.next, len(mark), mark.unfinished) == (None, None, 0, 0)


def test_a_gap_holds_it() -> None:
    """The position passes only what has ended, and everything at once when the gap closes."""
    mark = Watermark()
    for offset in (5, 6, 9):
        mark.begin(offset)
    assert not mark.end(6) and not mark.end(9)
    assert (mark.position, mark.next, len(mark), mark.unfinished) == (5, 10, 3, 1)
    assert mark.end(5)
    assert (mark.position, mark.next, len(mark), mark.unfinished) == (10, 10, 0, 0)


def test_offsets_only_rise() -> None:
    """The same record twice, or an older one, is the caller's mistake."""
    mark = Watermark()
    mark.begin(3)
    for offset in (3, 2):
        with pytest.raises(ValueError, match=f"offset {offset} after 3"):
            mark.begin(offset)


@given(
    steps=st.lists(st.integers(min_value=1, max_value=5), max_size=60),
    order=st.randoms(use_true_random=False),
    at_once=st.integers(min_value=1, max_value=20),
)
def test_it_is_the_lowest_offset_that_has_not_ended(steps: list[int], order: object, at_once: int) -> None:
    """Whatever the holes in the numbering and the order of the ends, as compared with a simple model."""
    mark = Watermark()
    offsets = [sum(steps[: index + 1]) for index in range(len(steps))]
    waiting, begun, running = list(offsets), [], []
    while waiting or running:
        if waiting and ((len(running) < at_once and order.random() < 0.6) or not running):  # type: ignore[attr-defined]
            offset = waiting.pop(0)
            mark.begin(offset)
            begun.append(offset)
            running.append(offset)
        else:
            before = mark.position
            offset = running.pop(order.randrange(len(running)))  # type: ignore[attr-defined]
            assert mark.end(offset) == (mark.position != before)
        expected = min(running) if running else begun[-1] + 1
        assert mark.position == expected
        assert mark.next == begun[-1] + 1
        assert mark.unfinished == len(running)
        assert len(mark) == sum(1 for one in begun if one >= expected)
