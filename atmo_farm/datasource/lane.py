"""One connection of a pool and the task that uses it: it takes a call, runs it, takes the next."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from atmo_farm import clock, log
from atmo_farm.datasource.base import Connection
from atmo_farm.datasource.call import EARLY_S, Call
from atmo_farm.datasource.errors import CallFailed, TransientFailure, Unreachable
from atmo_farm.datasource.queue import pins
from atmo_farm.datasource.statement import variable
from atmo_farm.datasource.transaction import Transaction

if TYPE_CHECKING:
    from atmo_farm.datasource.pool import Pool

logger = logging.getLogger("atmo_farm.datasource")


class Lane:
    """It ends when its connection is broken or cannot be made, or when the pool has no work for it for long."""

    def __init__(self, pool: Pool, connection: Connection, is_open: bool):
        self._pool = pool
        self._is_open = is_open
        self._waiter: asyncio.Future[Call | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.connection = connection
        self.call: Call | None = None
        """What it runs."""
        self.task: asyncio.Task[None] | None = None

    def start(self, call: Call | None) -> None:
        """Begin, with a call that was taken for it."""
        self.task = asyncio.get_running_loop().create_task(self._serve(call), name=f"{self._pool.name} lane")

    def give(self, call: Call | None) -> None:
        """While it is idle: a call that was taken for it, or None: it ends."""
        assert self._waiter is not None
        self._waiter.set_result(call)

    def is_idle(self) -> bool:
        """Whether it waits for `give`."""
        return self._waiter is not None and not self._waiter.done()

    async def _serve(self, call: Call | None) -> None:
        try:
            while not self.connection.broken:
                call = call or self._pool.take() or await self._idle()
                if call is None:
                    return
                await self._see_through(call)
                call = None
        except Exception as error:
            log.event(logger, logging.ERROR, "internal error in a lane", source=self._pool.name, exc_info=error)
        finally:
            self.connection.close()
            self._pool.lane_ended(self)

    async def _see_through(self, call: Call) -> None:
        """A query, or a transaction that begins with it."""
        began = clock.monotonic()
        try:
            if not self._is_open:
                await self.connection.open()
                self._is_open = True
            if call.ended:
                return
            if pins(call):
                await self._pool.run_transaction(Transaction(call, self.connection, self.run_query), call)
            else:
                await self.run_query(call)
        except Unreachable as error:
            self.connection.broken = True
            await self._pool.cannot_connect(self, call, began, str(error))
        except BaseException:
            call.fail(TransientFailure("the data source process could not run it"))
            raise
        finally:
            self._pool.done(call)

    async def _idle(self) -> Call | None:
        """Wait for work; None when there was none for so long that the lane should end."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = self._pool.lane_idles(self)
        try:
            call: Call | None = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (lost := waiter.result()) is not None:
                lost.fail(TransientFailure("the data source process ends"))
            raise
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        if call is not None and self.connection.is_lost():
            self.connection.close()
            self.connection, self._is_open = self._pool.new_connection(), False
        return call

    async def run_query(self, call: Call) -> None:
        """Run one statement and end its call."""
        if call.ended:
            return
        pool, connection = self._pool, self.connection
        name, values, *_ = call.arguments
        statement = pool.statements[name]
        began = clock.monotonic()
        deadline = pool.options.deadline_of(call, began)
        self.call, call.run = call, self
        try:
            variables = [variable(value) for value in values]
            call.answer(await connection.run(statement, variables, pool.options.comment_of(call), deadline))
            pool.answered()
        except CallFailed as error:
            call.fail(error)
            if isinstance(error, Unreachable):
                pool.breaker.trip(str(error))
            elif not connection.broken:
                pool.answered()
            elif clock.monotonic() >= deadline - EARLY_S:
                pool.breaker.silent()
        except BaseException:
            call.fail(TransientFailure("the data source process could not run it"))
            raise
        finally:
            self.call = None
            took_s = clock.monotonic() - began
            if pool.options.is_slow(took_s):
                _log_slow(call, pool.name, took_s)


def _log_slow(call: Call, source: str, took_s: float) -> None:
    query, took_ms = call.arguments[0], round(took_s * 1000)
    log.event(logger, logging.WARNING, "slow query", handler=call.handler, source=source, query=query, took_ms=took_ms)
