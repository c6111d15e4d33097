"""One transaction of a client on one connection.

BEGIN ─► first query ─► wait ─► query ─► wait ─► COMMIT
                         │
                         └─ ROLLBACK, the client is lost, the first query's deadline, a connection that breaks:
                            it is rolled back, and what still comes for it is told so
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from atmo_farm import clock
from atmo_farm.datasource.base import Connection
from atmo_farm.datasource.call import Call
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure
from atmo_farm.ipc.frames import Op


def over() -> TransientFailure:
    """What calls of a transaction get that does not exist any more."""
    return TransientFailure("the transaction is over: it was rolled back")


class Transaction:
    """`run` it on a connection; meanwhile `add` its further calls, or `abandon` it. `run_query` runs one query on that
    connection and ends its call."""

    def __init__(self, first: Call, connection: Connection, run_query: Callable[[Call], Awaitable[None]]):
        self._first = first
        self._connection = connection
        self._run_query = run_query
        self._calls: deque[Call] = deque()
        self._is_abandoned = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def client(self) -> object:
        """Whose it is."""
        return self._first.client

    def add(self, call: Call) -> None:
        """A further query, COMMIT or ROLLBACK."""
        self._calls.append(call)
        self._wake()

    def abandon(self) -> None:
        """Nobody will end it any more: roll it back after what runs."""
        self._is_abandoned = True
        self._wake()

    async def run(self, is_over: Callable[[], None]) -> None:
        """From BEGIN to its end. `is_over` is called before the ROLLBACK: nothing may be added from then on."""
        try:
            await self._connection.begin()
        except CallFailed as error:
            self._first.fail(error)
            is_over()
            self._refuse()
            return
        try:
            last, is_committed = await self._run_calls()
        finally:
            is_over()
        if not (is_committed or self._connection.broken):
            await self._connection.rollback()
        if last is not None and last.op is Op.ROLLBACK:
            last.answer(b"")
        self._refuse()

    async def _run_calls(self) -> tuple[Call | None, bool]:
        """The call that has ended it, if one has, and whether nothing is left to roll back."""
        call: Call | None = self._first
        while call is not None and not self._connection.broken:
            if call.op is Op.ROLLBACK:
                return call, False
            if call.op is Op.COMMIT:
                return call, not call.ended and await self._commit(call)
            await self._run_query(call)
            call = await self._next()
        if call is not None:
            self._calls.appendleft(call)
        return None, False

    async def _commit(self, call: Call) -> bool:
        try:
            await self._connection.commit(call.deadline)
        except CallFailed as error:
            call.fail(error)
            return isinstance(error, OutcomeUnknown)
        call.answer(b"")
        return True

    async def _next(self) -> Call | None:
        """Its next call; None when there will be none."""
        loop = asyncio.get_running_loop()
        while not self._calls and not self._is_abandoned:
            self._waiter = loop.create_future()
            timer = loop.call_later(max(0.0, self._first.deadline - clock.monotonic()), self.abandon)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return None if self._is_abandoned else self._calls.popleft()

    def _refuse(self) -> None:
        """Whatever is left."""
        for call in self._calls:
            if call.op is Op.ROLLBACK:
                call.answer(b"")
            else:
                call.fail(over())
        self._calls.clear()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
