"""Threads, each with a connection to the database while it runs a job."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import attrs

from atmo_farm.datasource.sqlite.failures import needs_reopening
from atmo_farm.datasource.sqlite.file import DatabaseFile, Identity
from atmo_farm.datasource.sqlite.jobs import Job
from atmo_farm.datasource.threads import Threads

ResultT = TypeVar("ResultT")


@attrs.frozen
class _Opened:
    connection: sqlite3.Connection
    identity: Identity
    """Of the file that it has open."""


class Workers:
    """`count` threads. `open_` makes a connection, on one of them; it may raise Unreachable, as the job then does."""

    def __init__(self, file: DatabaseFile, count: int, name: str, open_: Callable[[], sqlite3.Connection]):
        self._file = file
        self._open = open_
        self._threads = Threads(count, name)
        self._idle: list[_Opened] = []
        self._has_ended = False

    async def run(self, job: Job[ResultT]) -> ResultT:
        """Run it in its turn."""
        return await job.result(self._threads.run(partial(self._perform, job)))

    def begin(self, job: Job[ResultT]) -> None:
        """Run it in its turn; nobody waits for its result."""
        self._threads.run(partial(self._perform, job)).add_done_callback(_ignore)

    async def end(self, within_s: float) -> None:
        """Close the connections and end the threads, behind all that was given to them."""
        self._has_ended = True
        await asyncio.wait({self._threads.run(self._close)}, timeout=within_s)
        self._threads.close()

    # On a thread

    def _perform(self, job: Job[ResultT]) -> ResultT:
        opened = self._take(joins=job.joins)
        connection = opened.connection
        keep = not self._has_ended
        try:
            return job.run(connection)
        except sqlite3.Error as error:
            if needs_reopening(error):
                job.left_open = keep = False
            raise
        finally:
            if keep:
                self._idle.append(opened)
            else:
                connection.close()

    def _take(self, *, joins: bool) -> _Opened:
        """The connection that waits here, if the file is still the one that it has open; else a new one."""
        opened = self._idle.pop() if self._idle else None
        if opened is None:
            return self._new()
        connection = opened.connection
        if connection.in_transaction and not joins:  # what a handle that was given up has left behind
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        if connection.in_transaction and joins:
            return opened
        try:
            is_same = opened.identity == self._file.identity()
        except BaseException:
            connection.close()
            raise
        if is_same and not connection.in_transaction:
            return opened
        connection.close()
        return self._new()

    def _new(self) -> _Opened:
        connection = self._open()
        return _Opened(connection, self._file.identity())

    def _close(self) -> None:
        while self._idle:
            self._idle.pop().connection.close()


def _ignore(future: asyncio.Future[Any]) -> None:
    """What nobody waits for may fail."""
    if not future.cancelled():
        future.exception()
