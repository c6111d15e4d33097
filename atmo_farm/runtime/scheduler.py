"""Turns of the loop for guests that did not end on their first poll."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from atmo_farm import clock
from atmo_farm.errors import GuestTimedOut
from atmo_farm.runtime.ticker import TICK_S

if TYPE_CHECKING:
    from atmo_farm.runtime.instance import Instance


class Scheduler:
    """Polls suspended guests from the loop, so that sockets are served in between.

    A turn of the loop is for those that were woken or are new, or for one slice of one busy guest, by turns: a short
    run waits for one slice at most, however many guests are busy, and a busy one is never starved.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self.woken: deque[Instance] = deque()
        self.busy: deque[Instance] = deque()
        """Those that have used up a slice. While there are any, newcomers wait in `woken` too."""
        self.closed = False
        self._owed = self._scheduled = False

    def add(self, queue: deque[Instance], instance: Instance) -> None:
        """Queue an instance whose guest can go on."""
        queue.append(instance)
        self._schedule()

    async def finish(self, instance: Instance, deadline: float, polled: bool) -> None:
        """Wait until the instance's future is done; GuestTimedOut at the deadline, computing or waiting.

        The future is then still there: the caller deletes it, which unwinds the guest.
        """
        waiter = instance.waiter = self.loop.create_future()
        timer = _Deadline(self.loop, waiter, instance, deadline)
        if instance.runnable():
            self.add(self.busy if polled else self.woken, instance)
        try:
            await waiter
        finally:
            timer.cancel()
            instance.waiter = None

    def _schedule(self) -> None:
        if not self._scheduled and (self.woken or self.busy):
            self._scheduled = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self.closed:
            return
        if self.woken and not (self._owed and self.busy):
            self._owed = True
            end = clock.monotonic() + TICK_S
            while self.woken and clock.monotonic() < end:
                self._poll(self.woken.popleft())
        else:
            self._owed = False
            self._poll(self.busy.popleft())
        self._schedule()

    def _poll(self, instance: Instance) -> None:
        waiter = instance.waiter
        if waiter is None or waiter.done():  # killed or cancelled while it waited for its turn
            return
        if instance.context_variables.run(instance.take_turn):
            waiter.set_result(None)
        elif instance.runnable():
            self.busy.append(instance)


class _Deadline:
    """Ends a wait at its deadline and never before."""

    __slots__ = ("_deadline", "_handle", "_instance", "_loop", "_waiter")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None], instance: Instance, deadline: float
    ):
        self._loop, self._waiter, self._instance, self._deadline = loop, waiter, instance, deadline
        self._handle = loop.call_later(max(0.0, deadline - clock.monotonic()), self._expire)

    def cancel(self) -> None:
        self._handle.cancel()

    def _expire(self) -> None:
        if self._waiter.done():
            return
        left = self._deadline - clock.monotonic()
        if left > 0:  # uvloop's clock counts milliseconds and stands still during a turn, so timers may be early
            self._handle = self._loop.call_later(left, self._expire)
            return
        self._waiter.set_exception(GuestTimedOut(f"killed at its deadline while {self._instance.doing}"))
