"""The farm's clocks, in one place so that a test can shift the wall clock of a child without touching its deadlines."""

import time

monotonic = time.monotonic
"""Seconds since an arbitrary moment, the same for every process of this machine: deadlines, backoff, heartbeats."""

monotonic_ns = time.monotonic_ns
"""The same in whole nanoseconds, as the arena stores it."""


def wall() -> float:
    """Seconds since 1970: for what people and other machines read (log lines, envelopes), never for deadlines."""
    return time.time()


def wall_ns() -> int:
    """Nanoseconds since 1970: what a guest sees as its clock."""
    return time.time_ns()
