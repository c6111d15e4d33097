"""A database's connections: a source that runs queries on them, fairly over the handlers.

Each lane is one task with one connection: it takes the next call, runs it, takes the next. Lanes are added while calls
wait, up to the pool's size, and end when they have been idle for a while; one always stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping

import attrs

from atmo_farm import clock, log
from atmo_farm.datasource.base import Backend, Connection
from atmo_farm.datasource.breaker import Breaker
from atmo_farm.datasource.call import Call
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure, Unreachable
from atmo_farm.datasource.queue import FairQueue
from atmo_farm.datasource.statement import Statement, variable
from atmo_farm.ipc.frames import Op

logger = logging.getLogger("atmo_farm.datasource")


@attrs.frozen
class PoolOptions:
    """What a pool keeps to; times in seconds."""

    size: int = 8
    quota: int = 6
    """Calls of one handler that run at the same time."""
    statement_timeout_s: float | None = None
    idle_timeout_s: float = 300.0
    slow_query_s: float | None = 1.0
    """A call that took longer gets a log line."""
    comment: str = ""
    """What names the application in front of every statement; empty: statements carry no comment."""


class _Lane:
    """One connection and the task that uses it."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.call: Call | None = None
        """What it runs."""
        self.waiting: asyncio.Future[Call | None] | None = None
        """While it is idle: the next call; None: end."""
        self.task: asyncio.Task[None] | None = None
        self.pinned: deque[Call] = deque()
        """While it runs a transaction: that one's calls that wait."""
        self.abandoned = False
        """Nobody will end its transaction any more."""


class Pool:
    """`base.Source` on a Backend."""

    def __init__(self, name: str, backend: Backend, statements: Mapping[str, Statement], options: PoolOptions):
        self.name = name
        self._backend = backend
        self._statements = statements
        self._options = options
        self._queue = FairQueue(options.quota)
        self._lanes: set[_Lane] = set()
        self._idle: deque[_Lane] = deque()
        self._begins = FairQueue(options.quota)
        """First queries of transactions: at most half of the lanes may be pinned."""
        self._transactions: dict[tuple[object, int], _Lane] = {}
        self._closing = False
        self._breaker = Breaker(name, self._probe, self._down)

    async def open(self) -> None:
        """Connect once, behind the scenes; until then calls fail with the reason."""
        self._breaker.trip("not connected yet")

    def problem(self) -> str:
        """Why it is out of reach."""
        return self._breaker.reason

    def execute(self, call: Call) -> None:
        """Run a QUERY, COMMIT or ROLLBACK, or queue it."""
        if call.op is not Op.QUERY:
            self._in_transaction(call, call.arguments[1])
            return
        name, values, transaction, begins = call.arguments
        statement = self._statements.get(name)
        if statement is None:
            call.fail(CallFailed(f"query not found: {name[:100]}"))
        elif len(values) != statement.var_count:
            call.fail(CallFailed(f"expected {statement.var_count} variables, got {len(values)}"))
        elif transaction and not begins:
            self._in_transaction(call, transaction)
        elif self._breaker.reason:
            call.fail(Unreachable(f"{self.name} is out of reach: {self._breaker.reason}"))
        else:
            (self._begins if transaction else self._queue).put(call)
            self._dispatch()

    def cancel(self, call: Call) -> None:
        """A running statement is stopped on its server; a waiting one is passed over when its turn comes."""
        lane = call.run
        if isinstance(lane, _Lane) and lane.call is call:
            if clock.monotonic() >= call.deadline:
                self._breaker.silent()
            lane.connection.cancel()

    def forget(self, client: object) -> None:
        """Roll this client's transactions back."""
        for (owner, _), lane in self._transactions.items():
            if owner is client:
                self._abandon(lane)

    async def ping(self) -> None:
        """By a connection of its own."""
        await self._probe()

    async def check(self, statement: Statement) -> str:
        """As Backend.check."""
        return await self._backend.check(statement)

    async def close(self) -> None:
        """End all lanes; what runs is cut off."""
        self._closing = True
        await self._breaker.close()
        for call in (*self._queue.drain(), *self._begins.drain()):
            call.fail(TransientFailure("the data source process ends"))
        tasks = {lane.task for lane in self._lanes if lane.task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2)
        await self._backend.close()

    # Lanes

    def _dispatch(self) -> None:
        """Give waiting calls to idle lanes, and add lanes while there are more calls than those."""
        while self._idle and (call := self._take()) is not None:
            lane = self._idle.pop()
            assert lane.waiting is not None
            lane.waiting.set_result(call)
        while not self._idle and len(self._lanes) < self._options.size and (call := self._take()) is not None:
            self._add_lane(self._backend.connection(), call)

    def _take(self) -> Call | None:
        """The next call that may run now."""
        if len(self._begins) and len(self._transactions) < max(1, self._options.size // 2):
            call = self._begins.take()
            if call is not None:
                return call
        return self._queue.take()

    def _add_lane(self, connection: Connection, call: Call | None) -> None:
        lane = _Lane(connection)
        self._lanes.add(lane)
        lane.task = asyncio.get_running_loop().create_task(self._serve(lane, call), name=f"{self.name} lane")

    async def _serve(self, lane: _Lane, call: Call | None) -> None:
        """A lane's life."""
        connection = lane.connection
        is_open = call is None  # a probe has opened it
        try:
            while not connection.broken:
                if call is None:
                    call = self._take()
                if call is None:
                    call = await self._next(lane)
                    if call is None:
                        return
                    if connection.is_lost():
                        connection.close()
                        connection = lane.connection = self._backend.connection()
                        is_open = False
                try:
                    if not is_open:
                        await self._open(connection, call)
                        is_open = True
                    if call.arguments[2]:
                        await self._run_transaction(lane, call)
                    else:
                        await self._run_query(lane, call)
                finally:
                    (self._begins if call.arguments[2] else self._queue).done(call.handler)
                    call = None
        except Unreachable as error:
            self._breaker.trip(str(error))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.event(logger, logging.ERROR, "internal error in a lane", source=self.name, exc_info=error)
        finally:
            self._lanes.discard(lane)
            connection.close()
            if not self._closing and not self._breaker.reason:
                self._dispatch()

    async def _open(self, connection: Connection, call: Call) -> None:
        try:
            await connection.open()
        except Unreachable as error:
            call.fail(Unreachable(f"{self.name} is out of reach: {error}"))
            raise

    async def _next(self, lane: _Lane) -> Call | None:
        """Wait for work; None when there was none for so long that the lane should end."""
        lane.waiting = asyncio.get_running_loop().create_future()
        self._idle.append(lane)
        timer = None
        if len(self._lanes) > 1:
            timer = asyncio.get_running_loop().call_later(self._options.idle_timeout_s, self._retire, lane)
        try:
            return await lane.waiting
        finally:
            if timer is not None:
                timer.cancel()
            lane.waiting = None
            if lane in self._idle:
                self._idle.remove(lane)

    def _retire(self, lane: _Lane) -> None:
        if lane.waiting is not None and not lane.waiting.done() and len(self._lanes) > 1:
            self._idle.remove(lane)
            lane.waiting.set_result(None)

    async def _run_query(self, lane: _Lane, call: Call) -> None:
        """Run one statement and end its call; Unreachable when the connection was lost on the way."""
        if call.ended:
            return
        lane.call, call.run = call, lane
        name, values, *_ = call.arguments
        statement = self._statements[name]
        began = clock.monotonic()
        deadline = call.deadline
        if self._options.statement_timeout_s is not None:
            deadline = min(deadline, began + self._options.statement_timeout_s)
        try:
            variables = [variable(value) for value in values]
            call.answer(await lane.connection.run(statement, variables, self._comment(call), deadline))
            self._breaker.answered()
        except CallFailed as error:
            call.fail(error)
            if isinstance(error, Unreachable):
                raise
        finally:
            lane.call = None
            call.fail(TransientFailure("the data source process could not run it"))  # if nothing else has ended it
            took_s = clock.monotonic() - began
            if self._options.slow_query_s is not None and took_s > self._options.slow_query_s:
                self._log_slow(call, statement, took_s)

    def _comment(self, call: Call) -> str:
        return f"{self._options.comment} handler={call.handler}" if self._options.comment else ""

    def _log_slow(self, call: Call, statement: Statement, took_s: float) -> None:
        log.event(
            logger,
            logging.WARNING,
            "slow query",
            handler=call.handler,
            source=self.name,
            query=statement.name,
            took_ms=round(took_s * 1000),
        )

    # Transactions

    def _in_transaction(self, call: Call, number: int) -> None:
        lane = self._transactions.get((call.client, number))
        if lane is None:
            call.fail(TransientFailure("the transaction is over: it was rolled back"))
        else:
            lane.pinned.append(call)
            self._wake(lane)

    async def _run_transaction(self, lane: _Lane, call: Call) -> None:
        """From its first query to COMMIT, ROLLBACK, the loss of its client, or the first query's deadline."""
        key, connection, deadline = (call.client, call.arguments[2]), lane.connection, call.deadline
        self._transactions[key] = lane
        committed = False
        following: Call | None = call
        try:
            await connection.begin()
            while following is not None and not connection.broken:
                if following.op is Op.QUERY:
                    await self._run_query(lane, following)
                elif following.op is Op.ROLLBACK:
                    break
                elif not following.ended:
                    committed = await self._commit(lane, following)
                    break
                following = await self._next_pinned(lane, deadline)
        finally:
            del self._transactions[key]
            if not committed and not connection.broken:
                await connection.rollback()
            if following is not None and following.op is Op.ROLLBACK:
                following.answer(b"")
            for late in lane.pinned:
                late.fail(TransientFailure("the transaction is over: it was rolled back"))
            lane.pinned.clear()

    async def _commit(self, lane: _Lane, call: Call) -> bool:
        try:
            await lane.connection.commit(call.deadline)
        except CallFailed as error:
            call.fail(error)
            return isinstance(error, OutcomeUnknown)
        call.answer(b"")
        return True

    async def _next_pinned(self, lane: _Lane, deadline: float) -> Call | None:
        loop = asyncio.get_running_loop()
        while not lane.pinned and not lane.abandoned:
            lane.waiting = loop.create_future()
            timer = loop.call_later(max(0.0, deadline - clock.monotonic()), self._abandon, lane)
            try:
                await lane.waiting
            finally:
                timer.cancel()
                lane.waiting = None
        if lane.abandoned:
            lane.abandoned = False
            return None
        return lane.pinned.popleft()

    def _abandon(self, lane: _Lane) -> None:
        lane.abandoned = True
        self._wake(lane)

    @staticmethod
    def _wake(lane: _Lane) -> None:
        if lane.waiting is not None and not lane.waiting.done():
            lane.waiting.set_result(None)

    # Down and up

    def _down(self, reason: str) -> None:
        for call in (*self._queue.drain(), *self._begins.drain()):
            call.fail(Unreachable(f"{self.name} is out of reach: {reason}"))

    async def _probe(self) -> None:
        """Connect once; the connection becomes a lane, so that the next call finds it open."""
        connection = self._backend.connection()
        try:
            await connection.open()
        except BaseException:
            connection.close()
            raise
        if len(self._lanes) < self._options.size:
            self._add_lane(connection, None)
        else:
            connection.close()
