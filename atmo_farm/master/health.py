"""Which processes stand still: no heartbeat any more, or never ready."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from atmo_farm import clock
from atmo_farm.ipc.arena import State
from atmo_farm.master.worker import Worker
from atmo_farm.settings import Settings

HEARTBEAT_CHECK_S = 1.0


class Health:
    """Watches `workers`, the fleet's own list; `kill` takes a worker and the reason."""

    def __init__(self, workers: Sequence[Worker], kill: Callable[[Worker, str], None], settings: Settings):
        self._workers = workers
        self._kill = kill
        self._settings = settings
        self._checked_at = clock.monotonic()
        self._awake_since = 0.0

    def check_heartbeats(self, now: float) -> float:
        """Kill a process whose loop stands. A process that has not beaten yet is the boot timeout's business."""
        if now < (due := self._checked_at + HEARTBEAT_CHECK_S):
            return due
        if now > due + HEARTBEAT_CHECK_S:
            self._awake_since = now  # the whole machine stood, or the master did: nobody can be blamed
        self._checked_at = now
        for worker in self._workers:
            beat = worker.heartbeat()
            if worker.process is not None and beat:
                silent_s = now - max(beat, self._awake_since)
                if silent_s > self._settings.heartbeat_timeout_s:
                    self._kill(worker, f"no heartbeat for {silent_s:.1f} s")
        return now + HEARTBEAT_CHECK_S

    def check_boots(self, now: float) -> float:
        """Kill a process that takes too long to say that it is ready, or what it waits for."""
        wake = math.inf
        for worker in self._workers:
            process = worker.process
            if process is not None and process.state is State.BOOTING and not process.killed_because:
                deadline = max(process.forked_at, self._awake_since) + self._settings.boot_timeout_s
                if now >= deadline:
                    self._kill(worker, f"not ready after {self._settings.boot_timeout_s:g} s (setting timeouts.boot)")
                else:
                    wake = min(wake, deadline)
        return wake
