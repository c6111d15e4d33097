"""What bumps wasmtime's epoch while a guest runs, so that a busy guest gives way and an endless one can be killed."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from atmo_farm import clock
from atmo_farm.runtime import capi

if TYPE_CHECKING:
    from atmo_farm.runtime.instance import Instance

TICK_S = 0.005
"""Between two epochs: the longest slice of a busy guest."""

IDLE_TICKS = 200
"""The ticker parks after this many ticks (1 s) without a guest."""


class Current:
    """The instance whose guest is running right now: there is one thread for guests, so there is one or none.

    Set around every poll. Host functions find their instance here, never by what the guest hands them.
    """

    __slots__ = ("instance",)

    def __init__(self) -> None:
        self.instance: Instance | None = None


current = Current()


class Ticker(threading.Thread):
    """It has to be a thread: while a guest runs, the loop does not. All it does is a single atomic add in wasmtime.

    `epoch` counts the bumps. A caller that sees `parked` sets `wake` before it lets a guest run.

    To tick it needs the GIL. A guest that calls one host function after the other lets go of it for moments only, too
    short for a thread that has to wake up first: so each host function looks at `late_at`, and ticks in its place.
    """

    def __init__(self, engine: int):
        super().__init__(daemon=True, name="epoch-ticker")
        self.epoch = 0
        self.parked = False
        self.wake = threading.Event()
        self._engine = engine
        self.late_at = 0.0
        self._stopped = False

    def run(self) -> None:
        """Tick until stopped."""
        idle = 0
        while not self._stopped:
            time.sleep(TICK_S)
            if current.instance is not None:
                idle = 0
                self.tick()
            elif (idle := idle + 1) > IDLE_TICKS:
                idle = 0
                self.wake.clear()
                self.parked = True
                if current.instance is None and not self._stopped:  # looked at after `parked` is set: none is missed
                    self.wake.wait()
                self.parked = False

    def tick(self) -> None:
        """Begin an epoch."""
        self.late_at = clock.monotonic() + 2 * TICK_S
        self.epoch += 1
        capi.increment_epoch(self._engine)

    def stop(self) -> None:
        """End the thread; the engine may be deleted after this."""
        self._stopped = True
        self.wake.set()
        self.join()
