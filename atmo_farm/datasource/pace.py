"""How many calls of one handler run at the same time: fewer while this process does not keep up.

A process that always computes, or waits for a CPU, answers no more calls with more connections. Where the database has
the same CPUs, its processes only take them from it: then all calls are slower, and those of handlers that ask little
wait longest. So the share that a handler may use shrinks until there is time to spare, and grows again after that.

A handler that is alone takes nothing from others: it has its whole share until another one asks, and from then on what
it would have shrunk to meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from atmo_farm import clock
from atmo_farm.datasource.queue import FairQueue

COUNTS = "/proc/thread-self/schedstat"
"""Nanoseconds that this thread has had a CPU, that it has waited for one, and how often."""

LOOK_S = 0.1
"""Between two looks, while calls wait."""

SATURATED, SPARE = 0.9, 0.8
"""Parts of the time in which the process computes or waits for a CPU: from which on the share shrinks by one
connection, and below which it may grow by one."""

GROW_AFTER = 20
"""Looks with time to spare before it grows: each attempt is felt by all."""

LEAST = 2

ALONE_AFTER = 100
"""Looks without a call of another handler before one is alone."""


class Pace:
    """Sets the queue's quotas, from what they were at first down to LEAST. `grown` is called when more may run."""

    def __init__(self, queue: FairQueue, grown: Callable[[], None]):
        self._queue = queue
        self._grown = grown
        self._most = queue.quota
        self._spare = 0
        self._alone = ALONE_AFTER
        self._changes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._last = (0.0, 0.0)
        try:
            self._file = os.open(COUNTS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # a kernel that does not count
            self._file = -1

    def watch(self) -> None:
        """Calls wait."""
        if self._timer is None and self._file >= 0 and self._most > LEAST:
            self._last = self._times()
            self._look_later()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        (before, busy_before), (now, busy_now) = self._last, self._times()
        self._last = now, busy_now
        busy = (busy_now - busy_before) / (now - before)
        queue = self._queue
        if busy >= SATURATED:
            self._spare = 0
            queue.shared_quota = max(LEAST, queue.shared_quota - 1)
        elif busy < SPARE:
            self._spare += 1
            if self._spare >= GROW_AFTER and queue.shared_quota < self._most:
                self._spare = 0
                queue.shared_quota += 1
        self._alone = self._alone + 1 if queue.changes == self._changes else 0
        self._changes = queue.changes
        quota, queue.quota = queue.quota, self._most if self._alone >= ALONE_AFTER else queue.shared_quota
        if queue.quota > quota:
            self._grown()
        self._timer = None
        if len(queue) or queue.shared_quota < self._most:
            self._look_later()

    def _times(self) -> tuple[float, float]:
        """Now, and how long this thread has had a CPU or waited for one, in seconds."""
        running, waiting, _ = os.pread(self._file, 100, 0).split()
        return clock.monotonic(), (int(running) + int(waiting)) / 1e9
