"""Turns of the loop for guests that did not end on their first poll."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from atmo_farm import clock
from atmo_farm.errors import GuestTimedOut
from atmo_farm.runtime.ticker import TICK_S


class Polled(Protocol):
    """A guest's unfinished run, as the scheduler sees it."""

    waiter: asyncio.Future[None] | None

    def poll(self) -> bool:
        """Run it until it ends (True), waits, or has used up its slice."""

    def is_runnable(self) -> bool:
        """Whether a poll can get further; False while it waits for a host call."""


class Scheduler:
    """Polls guests from the loop, so that sockets and timers are served in between.

    A turn of the loop is for those that were woken or are new, or for one slice of one busy guest, by turns: a short
    run waits for one slice at most, however many guests are busy, and a busy one is never starved.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._woken: deque[Polled] = deque()
        self.busy: deque[Polled] = deque()
        """Those that have used up a slice. While there are any, newcomers queue too instead of being polled at once:
        else ten endless guests that arrive together would take ten slices in one turn of the loop."""
        self._owed = False
        self._scheduled = False

    def wake(self, guest: Polled) -> None:
        """Its host call is done, or it is new: poll it soon."""
        self._woken.append(guest)
        self._schedule()

    async def finish(self, guest: Polled, deadline: float, was_polled: bool) -> None:
        """Wait until the guest's run has ended; GuestTimedOut at the deadline (clock.monotonic() seconds)."""
        guest.waiter = waiter = self._loop.create_future()
        timer = self._loop.call_later(max(0.0, deadline - clock.monotonic()), self._expire, waiter)
        if guest.is_runnable():
            if was_polled:
                self.busy.append(guest)
                self._schedule()
            else:
                self.wake(guest)
        try:
            await waiter
        finally:
            timer.cancel()
            guest.waiter = None

    def _schedule(self) -> None:
        if not self._scheduled and (self._woken or self.busy):
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._woken and not (self._owed and self.busy):
            self._owed = True
            end = clock.monotonic() + TICK_S / 2
            while self._woken and clock.monotonic() < end:
                self._poll(self._woken.popleft())
        elif self.busy:
            self._owed = False
            self._poll(self.busy.popleft())
        self._schedule()

    def _poll(self, guest: Polled) -> None:
        waiter = guest.waiter
        if waiter is None or waiter.done():  # killed or cancelled while it waited for its turn
            return
        if guest.poll():
            waiter.set_result(None)
        elif guest.is_runnable():
            self.busy.append(guest)

    @staticmethod
    def _expire(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(GuestTimedOut("killed at its deadline"))
