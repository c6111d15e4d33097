"""What runs on a connection of SQLite's, on some thread: it can be stopped at any moment, from the loop.

sqlite3_interrupt stops what runs on a connection at that moment: it does nothing before a statement has begun, and
would hit the next job after this one has ended. So a job has its connection only while it runs, and is interrupted
again and again until it has ended.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from atmo_farm import clock
from atmo_farm.datasource.errors import TransientFailure
from atmo_farm.datasource.sqlite.failures import is_busy

ResultT = TypeVar("ResultT")

STRIKE_EVERY_S = 0.01
"""Between two interrupts of a job that should end."""

STUCK_S = 1.0
"""A job that has not ended so long after it was stopped is left to itself."""

RETRY_S = (0.001, 0.05)
"""Before another process's lock is tried for again, the first time and at most; it doubles."""

OVER = "the deadline was over before the statement began"
STOPPED = "stopped at its deadline"


class Stuck(Exception):
    """A job was stopped and does not end: its disk does not answer. Its outcome will never be known."""


class Job(Generic[ResultT]):
    """`work` gets the connection and runs on a thread, until `deadline` (clock.monotonic() seconds). `joins` says that
    it goes on with the transaction that is open on the connection."""

    def __init__(self, work: Callable[[sqlite3.Connection, Job[ResultT]], ResultT], deadline: float, *, joins: bool):
        self.work = work
        self.deadline = deadline
        self.joins = joins
        self.left_open = False
        """Whether a transaction was open on the connection when it ended."""
        self.future: asyncio.Future[ResultT] | None = None
        self.why = ""
        """Why it was stopped."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._connection: sqlite3.Connection | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has begun and not ended."""
        return self._connection is not None

    # On the loop

    async def result(self, future: asyncio.Future[ResultT]) -> ResultT:
        """Wait for it; it is stopped at its deadline, and when the waiting is cancelled. Raises what it did; Stuck."""
        self.future = future
        timer = asyncio.get_running_loop().call_later(max(0.0, self.deadline - clock.monotonic()), self.stop, STOPPED)
        try:
            return await future
        except asyncio.CancelledError:
            self._interrupt("given up")
            raise
        finally:
            timer.cancel()

    def stop(self, why: str) -> None:
        """Interrupt it until it has ended; one that has not begun ends at once."""
        if self.future is not None and not self.future.done():
            if self._interrupt(why):
                self._strike(self.future, clock.monotonic() + STUCK_S)
            else:
                self.future.set_exception(TransientFailure(OVER if why == STOPPED else why))

    def _strike(self, future: asyncio.Future[ResultT], give_up_at: float) -> None:
        if future.done():
            return
        if clock.monotonic() >= give_up_at:
            future.set_exception(Stuck())
            return
        self._interrupt(self.why)
        asyncio.get_running_loop().call_later(STRIKE_EVERY_S, self._strike, future, give_up_at)

    def _interrupt(self, why: str) -> bool:
        """Whether it had begun."""
        with self._lock:
            self.why = self.why or why
            self._stopped.set()
            if self._connection is None:
                return False
            self._connection.interrupt()
            return True

    # On its thread

    def run(self, connection: sqlite3.Connection) -> ResultT:
        """Do it."""
        with self._lock:
            if self._stopped.is_set():
                raise TransientFailure(self.why)
            self._connection = connection
        try:
            return self.work(connection, self)
        finally:
            with self._lock:
                self._connection = None
            self.left_open = connection.in_transaction

    def patiently(self, execute: Callable[[], object]) -> None:
        """Execute it, again and again while another process's lock is in the way."""
        delay_s, longest_s = RETRY_S
        while True:
            if self._stopped.is_set():
                raise TransientFailure(self.why)
            try:
                execute()
                return
            except sqlite3.Error as error:
                if not is_busy(error) or clock.monotonic() + delay_s >= self.deadline:
                    raise
            self._stopped.wait(delay_s)
            delay_s = min(longest_s, 2 * delay_s)
