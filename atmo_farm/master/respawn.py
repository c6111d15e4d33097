"""When a worker whose process died gets its next one."""

from __future__ import annotations

import random
from collections import deque

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 30.0
MULTIPLIER = 2.0
JITTER = 0.2

FORKS_A_MINUTE = 10
"""Bound on the forks of one worker that do not get ready, whatever the jitter gives."""

QUICK_DEATHS = 5
QUICK_DEATHS_WITHIN_S = 10.0
"""From the fifth death within ten seconds on, a worker that got ready each time backs off as well."""


class Respawn:
    """The policy of one worker. All times are clock.monotonic() seconds.

    A process that was ready is replaced at once, for a kill must cost its messages' time and no more; one that never
    got ready backs off, for it will most likely fail again.
    """

    def __init__(self) -> None:
        self.next_at = 0.0
        """The next fork is due from here on."""
        self._delays = 0
        self._deaths: deque[float] = deque(maxlen=QUICK_DEATHS)
        self._failed_forks: deque[float] = deque(maxlen=FORKS_A_MINUTE)

    def died(self, now: float, forked_at: float, was_ready: bool) -> None:
        """A process is gone: sets `next_at`."""
        if was_ready:
            if now - forked_at >= QUICK_DEATHS_WITHIN_S:
                self._delays = 0
            self._deaths.append(now)
            quick = len(self._deaths) == QUICK_DEATHS and now - self._deaths[0] < QUICK_DEATHS_WITHIN_S
            if not quick:
                self._delays = 0
            self.next_at = now + self._delay_s() if quick else now
        else:
            self._failed_forks.append(forked_at)
            self.next_at = now + self._delay_s()
            if len(self._failed_forks) == FORKS_A_MINUTE:
                self.next_at = max(self.next_at, self._failed_forks[0] + 60.0)

    def _delay_s(self) -> float:
        delay = min(FIRST_DELAY_S * MULTIPLIER**self._delays, MAX_DELAY_S)
        self._delays = min(self._delays + 1, 16)
        return delay * (1 + JITTER * (2 * random.random() - 1))
