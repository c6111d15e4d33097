"""Workers that begin, beside those that are to drain for them when all of them are up.

When one of the new cannot boot, or none got up for the boot timeout, the new ones drain and the old ones stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from atmo_farm.master.fleet import Fleet
from atmo_farm.master.worker import Worker

LOOK_AGAIN_S = 0.05
"""From the moment all are up to a second look at them: one may have died of getting ready."""

Tell = Callable[[dict[str, Any]], None]
"""Lets those who asked for it know how far it is."""


class Roll:
    """`step` is called until `is_over`: what was to end has ended. `failed` is called with the reason."""

    def __init__(
        self,
        fleet: Fleet,
        starting: Sequence[Worker],
        ending: Sequence[Worker],
        boot_timeout_s: float,
        tell: Tell,
        *,
        up: Callable[[], None],
        failed: Callable[[str], None],
    ):
        self._fleet = fleet
        self._starting = starting
        self._ending = ending
        self._boot_timeout_s = boot_timeout_s
        self._tell = tell
        self._up = up
        self._failed = failed
        self._deadline = 0.0
        self._look_at = math.inf
        self._most_up = 0
        self._is_decided = False
        self.is_over = False
        for worker in starting:
            worker.joining = True

    def step(self, now: float) -> float:
        """Go on as far as possible; returns when it wants its next turn."""
        if not self._is_decided:
            return self._start(now)
        self.is_over = not any(worker in self._fleet.workers for worker in self._ending)
        return math.inf

    def _start(self, now: float) -> float:
        if not self._deadline:
            self._deadline = now + self._boot_timeout_s
        failed = next((worker for worker in self._starting if worker.cannot_boot), None)
        up = sum(worker.is_up for worker in self._starting)
        if up > self._most_up:  # hundreds of them take longer than one may
            self._most_up, self._deadline = up, now + self._boot_timeout_s
            self._tell({"stage": "starting", "up": up, "of": len(self._starting)})
        if up < len(self._starting):
            self._look_at = math.inf
        elif self._look_at == math.inf:
            self._look_at = now + LOOK_AGAIN_S
        if now >= self._look_at:
            for worker in self._starting:
                worker.joining = False
            self._decide(now, self._up)
        elif failed is not None:
            self._roll_back(now, f"{failed.name} cannot boot: {failed.failure}")
        elif now >= self._deadline:
            late = ", ".join(worker.name for worker in self._starting if not worker.is_up)
            self._roll_back(now, f"not ready after {self._boot_timeout_s:g} s: {late}")
        else:
            return min(self._deadline, self._look_at)
        return now

    def _roll_back(self, now: float, reason: str) -> None:
        self._ending = self._starting
        self._decide(now, lambda: self._failed(reason))

    def _decide(self, now: float, told: Callable[[], None]) -> None:
        self._is_decided = True
        told()
        for worker in self._ending:
            self._fleet.dismiss(worker, now)
