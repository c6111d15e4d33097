"""The instances of one function: some warm, more on demand, never more than its maximum."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from atmo_farm import clock, log
from atmo_farm.errors import AtmoFarmError, GuestTimedOut
from atmo_farm.runtime import outcome
from atmo_farm.runtime.instance import Instance
from atmo_farm.runtime.program import Program

logger = logging.getLogger("atmo_farm.runtime")

START_S = 10.0
"""What a guest's start functions may take where no message is waiting for it."""

KEPT_IDLE_S = 30.0
"""An instance above `warm` that was not used for this long is closed."""

_CLOSED = "the function is closed"


class Pool:
    """Instances are used last in, first out, so that those which were made for a peak grow old and go.

    `idle` and `direct` are for Function.call: it takes from `idle` when there are any, else `acquire`; it may put back
    into `idle` when `direct` is set, else it must `release`.
    """

    def __init__(self, program: Program, warm: int, maximum: int, reuse: bool):
        self.program = program
        self.idle: list[Instance] = []
        self.direct = reuse
        self.count = 0
        """Slots in use: instances, and those that are being made."""
        self.waits = 0
        """How many calls ever had to wait for an instance."""
        self._warm, self._maximum, self._reuse = min(warm, maximum), max(1, maximum), reuse
        self._waiters: deque[asyncio.Future[Instance | None]] = deque()
        """Each gets an instance, or None: a slot, to make one itself. First come, first served."""
        self._loop = program.engine.loop
        self._closed = self._refilling = self._ageing = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def warm(self) -> None:
        """Make instances until `warm` of them are there; raises what keeps one from starting."""
        self._check_open()
        while self.count < self._warm:
            self.count += 1
            self._put(await self._make(clock.monotonic() + START_S))
            await asyncio.sleep(0)  # not all in one turn of the loop
            self._check_open()

    async def acquire(self, deadline: float) -> Instance:
        """An instance for one call. GuestTimedOut, or what keeps a new one from starting."""
        self._check_open()
        if self.idle:
            return self.idle.pop()
        if self.count < self._maximum and not self._waiters:
            self.count += 1
        else:
            instance = await self._wait(deadline)
            if instance is not None:
                if self._closed:  # since it was handed over
                    self.release(instance)
                    raise AtmoFarmError(_CLOSED)
                return instance
        return await self._make(deadline)

    def release(self, instance: Instance) -> None:
        """Take an instance back after its call, or throw it away when it must not be used again."""
        if not self._reuse or instance.broken or self._closed:
            instance.close()
            self._free_slot()
            if self.count < self._warm and not self._refilling and not self._closed:
                self._refilling = True
                task = self._loop.create_task(self._refill())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        else:
            self._put(instance)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it is released."""
        if self._closed:
            return
        self._closed = True
        self.direct = False
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(AtmoFarmError(_CLOSED))
        for task in self._tasks:
            task.cancel()
        while self.idle:
            self.idle.pop().close()
            self.count -= 1
        if self.count == 0:
            self.program.close()

    async def _make(self, deadline: float) -> Instance:
        """A new instance in a slot that is taken already; the slot is freed when it fails."""
        instance = None
        try:
            self._check_open()
            instance = Instance(self.program)
            if self.program.starts:
                await instance.start(deadline)
                self._check_open()
            if instance.broken:
                raise outcome.start_failure(instance)
        except BaseException:
            if instance is not None:
                instance.close()
            self._free_slot()
            raise
        if self.count > self._warm and not self._ageing:
            self._ageing = True
            self._loop.call_later(KEPT_IDLE_S, self._age)
        return instance

    def _check_open(self) -> None:
        """Nothing may be made once the last instance is gone: the program is freed then."""
        if self._closed:
            raise AtmoFarmError(_CLOSED)

    def _put(self, instance: Instance) -> None:
        if not self._hand_over(instance):
            self.idle.append(instance)

    def _free_slot(self) -> None:
        if self._closed:
            self.count -= 1
            if self.count == 0:
                self.program.close()
        elif not self._hand_over(None):
            self.count -= 1

    def _hand_over(self, item: Instance | None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(item)
                self._set_direct()
                return True
        self._set_direct()
        return False

    async def _wait(self, deadline: float) -> Instance | None:
        waiter: asyncio.Future[Instance | None] = self._loop.create_future()
        self._waiters.append(waiter)
        self.waits += 1
        self.direct = False
        timer = self._loop.call_later(max(0.0, deadline - clock.monotonic()), self._expire, waiter)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # We were cancelled too late: what we got goes to the next.
                instance = waiter.result()
                if instance is None:
                    self._free_slot()
                else:
                    self.release(instance)
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
                self._set_direct()
            raise
        finally:
            timer.cancel()

    def _expire(self, waiter: asyncio.Future[Instance | None]) -> None:
        if not waiter.done():
            waiter.set_exception(
                GuestTimedOut(f"not started before its deadline: all {self.count} instances were busy")
            )

    def _set_direct(self) -> None:
        self.direct = self._reuse and not self._closed and not self._waiters

    async def _refill(self) -> None:
        """Make instances ahead of the next messages, in place of those that were used up."""
        try:
            await self.warm()
        except AtmoFarmError as error:
            log.event(logger, logging.WARNING, "no instance could be made ahead", reason=str(error))
        finally:
            self._refilling = False

    def _age(self) -> None:
        self._ageing = False
        oldest = clock.monotonic() - KEPT_IDLE_S
        while self.idle and self.count > self._warm and self.idle[0].used_at < oldest:
            self.idle.pop(0).close()
            self.count -= 1
        if self.count > self._warm and not self._closed:
            self._ageing = True
            self._loop.call_later(KEPT_IDLE_S, self._age)
