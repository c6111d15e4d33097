"""One psycopg2 connection in asynchronous mode on the running loop: a statement at a time, and an eye on its socket."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Mapping
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, connection, cursor

from atmo_farm.datasource.meter import Meter
from atmo_farm.datasource.postgresql.failures import first_words

_SMALL = 4096
"""Characters of a statement that an idle socket takes at once, whatever they are."""


_UNMEASURED = 1 << 16
"""Bytes of answers after which the meter begins anew."""


class Lost(Exception):
    """The connection is no more; the text says why, in words of the server, libpq or the system."""


class TooLong(Exception):
    """The answer is longer than was allowed; the connection is no more."""


class Link:
    """`open` it, then `send` statements, one after the other; psycopg2's own errors come out of `send` as they are."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._poller = select.poll()
        self._waiter: asyncio.Future[cursor] | None = None
        self._result: cursor
        self._writes = False
        self._meter: Meter
        self._events = self._cap = self._told = 0
        self._is_measured = False
        self.driver: connection
        self.pid = 0
        """Of the server's process, as it has said when it let us in."""
        self.is_shared = False
        """It is a pooler's that has let us in: the server's sessions behind that are not only ours."""
        self.lost = "not connected"
        """Why it is no more; empty while it is."""

    async def open(self, parameters: Mapping[str, Any]) -> None:
        """Connect; psycopg2.Error when that fails. It has no timer of its own, and cancelling it leaves nothing."""
        driver: connection = psycopg2.connect(**parameters, async_=1)
        try:
            while (state := driver.poll()) != POLL_OK:
                await self._event(driver.fileno(), state)
        except BaseException:
            driver.close()
            raise
        self.driver, self._fd, self.pid = driver, driver.fileno(), driver.info.backend_pid
        self.lost = ""
        self._meter = Meter(self._fd)
        self._poller.register(self._fd, select.POLLIN)
        self._loop.add_reader(self._fd, self._on_event)

    def send(self, text: str, cap: int) -> asyncio.Future[cursor]:
        """Run it: awaited, it gives the cursor with the last result. Lost when the connection ends before the answer is
        here, TooLong when that is longer than `cap` bytes. Who awaits it and is cancelled must `drop` the link."""
        if self.lost:
            raise Lost(self.lost)
        result = self._result = self.driver.cursor()
        if self._is_measured and self._told < _UNMEASURED:
            self._is_measured = False
        elif self.driver.fileno() == self._fd:
            self._meter.begin()
            self._told = 0
        try:
            result.execute(text)
        except psycopg2.Error as error:
            self.drop(first_words(error))
            raise Lost(self.lost) from None
        self._events, self._cap = 0, cap
        waiter = self._waiter = self._loop.create_future()
        if len(text) > _SMALL or self.driver.fileno() != self._fd:
            self._on_event()
        return waiter

    def received(self) -> int:
        """Bytes of the answer to the last statement, about; 0 if it was here at once."""
        return 0 if self._events <= 1 or self.lost else self._meter.received()

    def took(self, size: int) -> None:
        """The last answer was about so many bytes: most are so few that no meter needs to be asked."""
        self._told += size + 256
        self._is_measured = self._events == 1

    async def until_idle(self) -> None:
        """Return when nothing runs."""
        if self._waiter is not None:
            await asyncio.wait({self._waiter})

    @property
    def busy(self) -> bool:
        """Whether a statement runs."""
        return self._waiter is not None

    def is_lost(self) -> bool:
        """Whether the server has ended it, as far as this machine knows by now."""
        while not self.lost and self._poller.poll(0):
            self._on_event()
        return bool(self.lost)

    def drop(self, reason: str, error: Exception | None = None) -> None:
        """Disconnect; what runs fails with `error`, or as Lost."""
        if self.lost:
            return
        self.lost = reason
        self._loop.remove_reader(self._fd)  # before the descriptor is closed: its number may be another's at once
        if self._writes:
            self._loop.remove_writer(self._fd)
        self._poller.unregister(self._fd)
        self.driver.close()
        self._end(error or Lost(reason))

    def _on_event(self) -> None:
        """The socket is readable, or writable while a long statement goes out; or something is wrong with it."""
        if self.lost:
            return
        self._events += 1
        if self._events > 1 and self._waiter is not None and self._is_too_long():
            self.drop("its answer was too long", TooLong())
            return
        try:
            state = self.driver.poll()
        except psycopg2.Error as error:
            if self.driver.closed or error.diag.severity_nonlocalized in ("FATAL", "PANIC"):
                self.drop(first_words(error))
            else:
                self._end(error)
            return
        if (state == POLL_WRITE) is not self._writes:
            self._writes = not self._writes
            if self._writes:
                self._loop.add_writer(self._fd, self._on_event)
            else:
                self._loop.remove_writer(self._fd)
        if state == POLL_OK and self._waiter is not None:
            self.driver.notices.clear()
            self.driver.notifies.clear()
            self._end(None)
        elif self._is_dead():
            self._loop.call_soon(self._on_event)

    def _is_dead(self) -> bool:
        """libpq has closed the socket, or the server's side is gone for good, and libpq has not said so yet: for both
        it must be asked again. No event will come: uvloop tells of an error once, and that is the last it tells."""
        if self.driver.fileno() != self._fd:
            return True
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in self._poller.poll(0))

    def _is_too_long(self) -> bool:
        if self.driver.fileno() != self._fd:
            return False
        return self._meter.received() > self._cap

    def _end(self, error: Exception | None) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(self._result)
        else:
            waiter.set_exception(error)

    async def _event(self, descriptor: int, state: int) -> None:
        """Wait once for what psycopg2 waits for. The descriptor may be another one the next time: libpq connects again
        when a server refuses TLS."""
        event = self._loop.create_future()
        add, remove = (
            (self._loop.add_reader, self._loop.remove_reader)
            if state == POLL_READ
            else (self._loop.add_writer, self._loop.remove_writer)
        )
        add(descriptor, _set, event)
        try:
            await event
        finally:
            remove(descriptor)


def _set(event: asyncio.Future[None]) -> None:
    if not event.done():
        event.set_result(None)
