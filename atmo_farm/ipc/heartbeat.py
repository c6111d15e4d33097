"""A child's sign of life: its loop writes the time into its slot; the master replaces a child whose loop stands."""

from __future__ import annotations

import asyncio

from atmo_farm import clock
from atmo_farm.ipc.arena import Field

INTERVAL_S = 1.0


class Heartbeat:
    """Writes `Field.HEARTBEAT_NS` once a second from the running loop, until it is stopped."""

    def __init__(self, slot: memoryview):
        self._slot = slot
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Beat now, and then each second as long as the running loop turns."""
        self._slot[Field.HEARTBEAT_NS] = clock.monotonic_ns()
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self.start)

    def stop(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
