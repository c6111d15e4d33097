"""Counters and heartbeats of all processes, in memory that the master maps once and every child inherits.

    arena = 4,096 slots of 4 KiB (a sparse memfd: untouched slots cost nothing)
    slot  = 512 aligned 8-byte numbers, one writer each

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


COUNTS = tuple(field for field in Field if field >= Field.RECEIVED)


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
            os.ftruncate(descriptor, SLOTS * SLOT_SIZE)
            self._map = mmap.mmap(descriptor, SLOTS * SLOT_SIZE)
        finally:
            os.close(descriptor)
        self._view = memoryview(self._map)

    def slot(self, index: int) -> memoryview:
        """512 unsigned 8-byte numbers, indexed by `Field`: `slot[Field.RECEIVED] += 1`."""
        if not 0 <= index < SLOTS:
            raise IndexError(f"the arena has {SLOTS} slots, asked for {index}")
        return self._view[index * SLOT_SIZE : (index + 1) * SLOT_SIZE].cast("Q")
