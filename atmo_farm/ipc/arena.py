"""Counters and heartbeats of all processes, in memory that the master maps once and every child inherits.

    arena = 4,096 slots of 4 KiB and one more for the farm (a sparse memfd: untouched slots cost nothing)
    slot  = 256 aligned 8-byte numbers, of the process that runs here | a card, of the master: who that is (`cards`)

    numbers    0 … 15   as `Field` says: how it is now; 0 once the process is gone
              16 … 63   as `Field` says: counts
              64 … 203  counts: a consumer's histograms, the proxy's outages
             204 … 255  how it is now: a consumer's lag, the proxy's sources (`gauges`)

A slot belongs to one (handler, worker), whoever runs as it: a respawned child goes on counting where the dead one
stopped, so a kill loses no count. Aligned 8-byte stores are whole on every machine that runs this, so readers need no
lock.
"""

from __future__ import annotations

import enum
import mmap
import os

SLOTS = 4096
SLOT_SIZE = 4096


class Field(enum.IntEnum):
    """Where each number stands in a slot. Counts only grow; the others are overwritten."""

    PID = 0
    GENERATION = 1
    HEARTBEAT_NS = 2
    """clock.monotonic_ns() of the last sign of life."""
    STATE = 3
    """A `State`."""
    IN_FLIGHT = 4
    PENDING = 5
    """Received and waiting for a free place."""
    POOL = 6
    """Wasm instances alive."""
    STARTS = 7
    """How often a process began in this slot."""
    ENTERED = 8
    """`Message.number` of the message whose guest runs at this moment, else 0: who is to blame if the process dies."""
    PROGRESS_NS = 9
    """clock.monotonic_ns() when it last had settled a message, or seen that one must be tried again. These three are
    looked at once a second."""
    IDLE_NS = 10
    """When it last held none."""
    NO_LAG_NS = 11
    """When the broker last had none for its handler."""
    PATIENCE_MS = 12
    """How long it may hold messages and settle none, by its handler's own timeouts."""
    DROPPED_NS = 13
    """clock.monotonic_ns() when it last dropped messages."""
    PAUSED = 14
    """1 while it takes no new message because its handler is paused."""

    RECEIVED = 16
    OK = 17
    FAILED = 18
    RETRIED = 19
    DROPPED = 20
    """Lost before they were looked at: the pending bound was reached."""
    PUBLISHED = 21
    CANCELLED = 22
    TIMEOUTS = 23
    TRAPS = 24
    LOG_LINES_DROPPED = 25
    DEAD = 26
    """Dead letters that are kept safely."""
    REDELIVERED = 27
    """Received not for the first time."""
    POOL_WAITS = 28
    """Runs that found all instances busy."""
    GUEST_LINES_DROPPED = 29
    SPANS = 30
    """Of traces, taken by the collector."""
    SPANS_DROPPED = 31

    KILLED = 32
    """Of the ends of processes that nobody had told to end, each counted by the master: killed by a signal."""
    REPLACED = 33
    """Killed by the master: silent, not ready in time, or it did not behave."""
    BOOT_FAILED = 34
    BROKER_CLOSED = 35
    EXITED = 36
    """Any other exit."""


ENDS = (Field.KILLED, Field.REPLACED, Field.BOOT_FAILED, Field.BROKER_CLOSED, Field.EXITED)

COUNTS = tuple(field for field in Field if Field.RECEIVED <= field < Field.KILLED)
"""What a process counts itself."""

FIRST_COUNT, HISTOGRAMS, FIRST_GAUGE, NUMBERS = Field.RECEIVED.value, 64, 204, 256
"""From the first to the third, numbers only grow, over all processes of a slot."""


class State(enum.IntEnum):
    """Where a child is in its life."""

    EMPTY = 0
    BOOTING = 1
    WAITING = 2
    """Up, but its broker is out of reach."""
    READY = 3
    DRAINING = 4


class Arena:
    """The whole memory; made once, by the master, before any fork."""

    def __init__(self) -> None:
        descriptor = os.memfd_create("atmo-farm-arena", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, (SLOTS + 1) * SLOT_SIZE)
            self._map = mmap.mmap(descriptor, (SLOTS + 1) * SLOT_SIZE)
        finally:
            os.close(descriptor)
        self._view = memoryview(self._map)

    def slot(self, index: int) -> memoryview:
        """Unsigned 8-byte numbers, indexed by `Field`: `slot[Field.RECEIVED] += 1`."""
        if not 0 <= index < SLOTS:
            raise IndexError(f"the arena has {SLOTS} slots, asked for {index}")
        return self._numbers(index)

    @property
    def farm(self) -> memoryview:
        """The master's own slot: its heartbeat, and the farm's card."""
        return self._numbers(SLOTS)

    def _numbers(self, index: int) -> memoryview:
        return self._view[index * SLOT_SIZE : (index + 1) * SLOT_SIZE].cast("Q")
