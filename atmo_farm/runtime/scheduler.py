"""Turns of the loop for guests that did not end on their first poll."""

from __future__ import annotations

import asyncio
import math
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
        self._polled_s = 0.0
        """How long guests have run in `wake` since the last turn."""
        self._deadlines: dict[Instance, float] = {}
        """Of those that somebody waits for."""
        self._alarm: asyncio.TimerHandle | None = None
        """One for all, at the earliest deadline that there was when it was set: it is not set anew for each run."""
        self._rings_at = math.inf

    def add(self, queue: deque[Instance], instance: Instance) -> None:
        """Queue an instance whose guest can go on."""
        queue.append(instance)
        self._schedule()

    def wake(self, instance: Instance) -> None:
        """Poll an instance whose guest can go on, from a callback of the loop: at once, if nobody waits for a turn and
        guests have not run for long in this way."""
        if self._scheduled or self.closed:
            self.woken.append(instance)
            return
        began = clock.monotonic()
        self._poll(instance)
        self._polled_s += clock.monotonic() - began
        if self._polled_s > TICK_S:
            self._scheduled = True
            self.loop.call_soon(self._turn)
        else:
            self._schedule()

    def finishing(self, instance: Instance, deadline: float, polled: bool) -> asyncio.Future[None]:
        """To be awaited until the instance's run is done, then `finished`; GuestTimedOut at the deadline, computing or
        waiting: its future is then still there, and deleting that unwinds the guest.
        """
        waiter = instance.waiter = self.loop.create_future()
        self._deadlines[instance] = deadline
        if deadline < self._rings_at:
            self._set_alarm(deadline)
        if instance.runnable():
            self.add(self.busy if polled else self.woken, instance)
        return waiter

    def finished(self, instance: Instance) -> None:
        """Nobody waits for it any more."""
        del self._deadlines[instance]
        instance.waiter = None

    def _schedule(self) -> None:
        if not self._scheduled and (self.woken or self.busy):
            self._scheduled = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._polled_s = 0.0
        if self.closed:
            return
        if self.woken and not (self._owed and self.busy):
            self._owed = True
            end = clock.monotonic() + TICK_S
            while self.woken and clock.monotonic() < end:
                self._poll(self.woken.popleft())
        elif self.busy:
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

    def _set_alarm(self, deadline: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at = deadline
        self._alarm = self.loop.call_later(max(0.0, deadline - clock.monotonic()), self._ring)

    def _ring(self) -> None:
        """End the waits that are over, at their deadline and never before: timers may be early, for uvloop's clock
        counts milliseconds and stands still during a turn."""
        now = clock.monotonic()
        next_ = math.inf
        for instance, deadline in self._deadlines.items():
            if deadline > now:
                next_ = min(next_, deadline)
            elif instance.waiter is not None and not instance.waiter.done():
                instance.waiter.set_exception(GuestTimedOut(f"killed at its deadline while {instance.doing}"))
        self._alarm, self._rings_at = None, math.inf
        if next_ < math.inf:
            self._set_alarm(next_)
