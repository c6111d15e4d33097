"""A select of one row by the drivers alone: on one blocking connection, and on several asynchronous ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2 import extensions

QUERY = "SELECT id, name, price FROM goods WHERE id = %s"

Select = Callable[[int], Any]


class BlockingPostgres:
    """psycopg2 as most programs use it."""

    def __init__(self, url: str):
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True
        self._cursor = self._connection.cursor()

    def select(self, number: int) -> Any:
        """One row."""
        self._cursor.execute(QUERY, (str(number),))
        return self._cursor.fetchall()


class AsyncPostgres:
    """One asynchronous connection on the running loop."""

    def __init__(self, url: str):
        self._connection = psycopg2.connect(url, async_=1)
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Connect."""
        while (state := self._connection.poll()) != extensions.POLL_OK:
            ready = self._loop.create_future()
            watch, unwatch = (
                (self._loop.add_reader, self._loop.remove_reader)
                if state == extensions.POLL_READ
                else (self._loop.add_writer, self._loop.remove_writer)
            )
            descriptor = self._connection.fileno()
            watch(descriptor, ready.set_result, None)
            await ready
            unwatch(descriptor)
        self._cursor = self._connection.cursor()
        self._loop.add_reader(self._connection.fileno(), self._readable)
        self._done: asyncio.Future[None] | None = None

    def _readable(self) -> None:
        if self._connection.poll() == extensions.POLL_OK and self._done is not None:
            done, self._done = self._done, None
            done.set_result(None)

    async def select(self, number: int) -> Any:
        """One row."""
        self._done = done = self._loop.create_future()
        self._cursor.execute(QUERY, (str(number),))
        self._readable()  # the answer may be here already
        await done
        return self._cursor.fetchall()

    def close(self) -> None:
        """Disconnect."""
        self._loop.remove_reader(self._connection.fileno())
        self._connection.close()


class BlockingMySql:
    """mysqlclient as most programs use it."""

    def __init__(self, **options: Any):
        import MySQLdb

        self._connection = MySQLdb.connect(**options, autocommit=True)
        self._cursor = self._connection.cursor()

    def select(self, number: int) -> Any:
        """One row."""
        self._cursor.execute(QUERY, (str(number),))
        return self._cursor.fetchall()


class AsyncMySql:
    """send_query, wait until the socket is readable, read_query_result."""

    def __init__(self, **options: Any):
        import MySQLdb

        self._connection = MySQLdb.connect(**options, autocommit=True)
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Watch the socket."""
        self._loop.add_reader(self._connection.fileno(), self._readable)

    def _readable(self) -> None:
        if self._done is not None:
            done, self._done = self._done, None
            done.set_result(None)

    async def select(self, number: int) -> Any:
        """One row."""
        self._done = done = self._loop.create_future()
        literal = self._connection.literal(str(number))
        self._connection.send_query(QUERY.encode() % literal)
        await done
        self._connection.read_query_result()
        return self._connection.store_result().fetch_row(0)

    def close(self) -> None:
        """Disconnect."""
        self._loop.remove_reader(self._connection.fileno())
        self._connection.close()
