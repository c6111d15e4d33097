"""Stops statements of other connections over a spare one: psycopg2's own `cancel` holds the GIL while it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import psycopg2

from atmo_farm.datasource.errors import Unreachable
from atmo_farm.datasource.postgresql.link import Link, Lost, TooLong

_CAP = 1 << 16


class Canceller:
    """`connect` gives a new open link, or raises Unreachable. The spare connection stays, once it was needed."""

    def __init__(self, connect: Callable[[], Awaitable[Link]]):
        self._connect = connect
        self._link: Link | None = None
        self._turn = asyncio.Lock()

    async def cancel(self, pid: int) -> None:
        """Tell the server's process to stop what it runs. When this returns, it was told, and a statement that is sent
        to it afterwards does not suffer. Unreachable when that is not certain."""
        async with self._turn:
            if self._link is None or self._link.is_lost():
                self._link = await self._connect()
            try:
                await self._link.send(f"SELECT pg_catalog.pg_cancel_backend({pid})", _CAP)
            except (psycopg2.Error, Lost, TooLong):
                self._link.drop("it did not cancel")
                raise Unreachable("the server could not be asked to cancel a statement") from None
            except asyncio.CancelledError:
                self._link.drop("it did not answer")
                raise

    def close(self) -> None:
        """Disconnect."""
        if self._link is not None:
            self._link.drop("closed")
