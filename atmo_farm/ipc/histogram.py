"""How long things take, counted in a slot of the arena: one count for each power of two.

histogram = counts of what took < 16 µs, < 32 µs, < 64 µs, … (BUCKETS of them) | the sum in microseconds
"""

from __future__ import annotations

import enum

import attrs

from atmo_farm.ipc.arena import HISTOGRAMS

PER_SECOND = 62_500
"""The width of the first bucket is one of these: 16 µs."""

BUCKETS = 34
"""The last is for what took up to 38 hours: longer than the longest timeout."""

_SIZE = BUCKETS + 1


class Timed(enum.IntEnum):
    """What is timed, in the order of the histograms in a slot."""

    ATTEMPT = 0
    """One attempt at a message: all its steps, and its output."""
    CACHE = 1
    """One cache_get or cache_set, as the guest sees it."""
    DATABASE = 2
    """One db_exec."""
    HTTP = 3
    """One fetch_url or graphql_query."""

    @property
    def begin(self) -> int:
        """The number of its first bucket in a slot; bucket `int(seconds * PER_SECOND).bit_length()` is the one to add
        to."""
        return HISTOGRAMS + self * _SIZE


@attrs.frozen
class Reading:
    """What a histogram has counted."""

    counts: tuple[int, ...]
    """By bucket, not cumulative."""
    sum_s: float


def upper_s(bucket: int) -> float:
    """What all that is counted in a bucket was shorter than."""
    return float(2**bucket / PER_SECOND)


def count(slot: memoryview, timed: Timed, seconds: float) -> None:
    """One more."""
    begin = timed.begin
    slot[begin + min(int(seconds * PER_SECOND).bit_length(), BUCKETS - 1)] += 1
    slot[begin + BUCKETS] += int(seconds * 1e6)


def read(slots: list[memoryview], timed: Timed) -> Reading:
    """The sum over these slots."""
    begin = timed.begin
    columns = zip(*(slot[begin : begin + _SIZE].tolist() for slot in slots), strict=True)
    *counts, micros = [sum(column) for column in columns] or [0] * _SIZE
    return Reading(tuple(counts), micros / 1e6)
