"""The thread that ends the slices of busy guests."""

from __future__ import annotations

import threading
import time

from atmo_farm.runtime.capi import increment_epoch

TICK_S = 0.005
"""The longest slice of a busy guest."""

PARK_AFTER_TICKS = 200
"""One second without a guest: the idle process then costs nothing."""


class Ticker(threading.Thread):
    """Bumps the engine's epoch while a guest is inside Wasm, and parks when none was for a second.

    It has to be a thread: while a guest runs, the loop does not. It may be one, although nothing else here is
    thread-safe, since wasmtime_engine_increment_epoch is a single atomic add. Made after the fork only.
    """

    def __init__(self, engine: int):
        super().__init__(daemon=True, name="epoch-ticker")
        self._engine = engine
        self.epoch = 0
        """How often it has ticked."""
        self.inside = False
        """Set by the loop's thread while a guest runs."""
        self.parked = False
        self.wake = threading.Event()
        """Set by whoever enters a guest and finds `parked`."""
        self._stopped = False

    def run(self) -> None:
        """Tick until stopped."""
        idle = 0
        while not self._stopped:
            time.sleep(TICK_S)
            if self.inside:
                idle = 0
                self.epoch += 1
                increment_epoch(self._engine)
                continue
            idle += 1
            if idle > PARK_AFTER_TICKS:
                idle = 0
                self.wake.clear()
                self.parked = True
                if not self.inside and not self._stopped:  # after `parked`: a guest that enters now is seen
                    self.wake.wait()
                self.parked = False

    def stop(self) -> None:
        """End the thread and wait for it: the engine may be gone afterwards."""
        self._stopped = True
        self.wake.set()
        self.join()
