"""A database's connections: a source that runs queries on them, fairly over the handlers.

    execute ─► FairQueue ─► Lane ─► Connection.run ─► the call's answer
                   ▲          │
                   └──────────┘  takes the next call by itself

Lanes are added while calls wait, up to the pool's size, and end when they have been idle for a while; one always stays.
How many of them one handler may use is its quota, and less while the process does not keep up (pace.py).
Transactions have at most half of the lanes. When there is no connection, and none can be made, the breaker opens: calls
fail at once until a probe has connected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from atmo_farm import clock, log
from atmo_farm.datasource.base import Backend, Connection
from atmo_farm.datasource.breaker import Breaker
from atmo_farm.datasource.call import Call
from atmo_farm.datasource.errors import CallFailed, TransientFailure, Unreachable
from atmo_farm.datasource.lane import Lane
from atmo_farm.datasource.options import PoolOptions
from atmo_farm.datasource.pace import Pace
from atmo_farm.datasource.queue import FairQueue
from atmo_farm.datasource.statement import Statement
from atmo_farm.datasource.transaction import Transaction, over
from atmo_farm.ipc.frames import Op
from atmo_farm.ipc.gauges import SourceFigures

__all__ = ["Pool", "PoolOptions"]

logger = logging.getLogger("atmo_farm.datasource")

GROW_AGAIN_S = 5.0
"""After a server has taken no more connections beside those that the pool has."""

PROOF_S = 0.08
"""After a connection could not be made: how long others may take to show that the server is there all the same."""


class Pool:
    """`base.Source` on a Backend."""

    def __init__(self, name: str, backend: Backend, statements: Mapping[str, Statement], options: PoolOptions):
        self.name = name
        self.statements = statements
        self.breaker = Breaker(name, self._probe, self._down)
        self._backend = backend
        self.options = options
        self._queue = FairQueue(options.quota, max(1, options.size // 2))
        self._pace = Pace(self._queue, self._dispatch)
        self._lanes: set[Lane] = set()
        self._idle: list[Lane] = []
        self._transactions: dict[tuple[object, int], Transaction] = {}
        self._is_closing = False
        self._grows_at = 0.0

    async def open(self) -> None:
        """Connect once, behind the scenes; until then calls fail with the reason."""
        self.breaker.start()

    def problem(self) -> str:
        """Why it is out of reach."""
        return self.breaker.reason

    def figures(self) -> SourceFigures:
        """The lanes are its connections."""
        lanes = len(self._lanes)
        return SourceFigures(
            is_up=not self.breaker.reason,
            connections=lanes,
            busy=lanes - len(self._idle),
            waiting=self.waiting,
            outages=self.breaker.opened,
        )

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    def execute(self, call: Call) -> None:
        """Run a QUERY, COMMIT or ROLLBACK, or queue it."""
        if call.op is not Op.QUERY:
            self._in_transaction(call, call.arguments[1])
            return
        name, values, transaction, begins = call.arguments
        statement = self.statements.get(name)
        if statement is None:
            call.fail(CallFailed(f"query not found: {name[:100]}"))
        elif len(values) != statement.var_count:
            call.fail(CallFailed(f"expected {statement.var_count} variables, got {len(values)}"))
        elif transaction and not begins:
            self._in_transaction(call, transaction)
        elif self.breaker.reason:
            call.fail(self._unreachable(self.breaker.reason))
        elif self._is_closing:
            call.fail(TransientFailure("the data source process ends"))
        elif self._idle and self._queue.admit(call):
            self._idle.pop().give(call)
        else:
            self._queue.put(call)
            self._pace.watch()
            self._dispatch()

    def cancel(self, call: Call) -> None:
        """A running statement is stopped on its server; a waiting one is passed over when its turn comes. Whoever gives
        up a query of a transaction does not go on with that."""
        lane = call.run
        if lane is not None and lane.call is call:
            lane.connection.cancel()
        elif lane is None:
            self._queue.given_up()
        if call.op is Op.QUERY and call.arguments[2]:
            transaction = self._transactions.get((call.client, call.arguments[2]))
            if transaction is not None:
                transaction.abandon()

    def forget(self, client: object) -> None:
        """Roll this client's transactions back."""
        for transaction in self._transactions.values():
            if transaction.client is client:
                transaction.abandon()

    async def ping(self) -> None:
        """By a connection of its own."""
        await self._probe()

    async def check(self, statement: Statement) -> str:
        """As Backend.check."""
        return await self._backend.check(statement)

    async def close(self) -> None:
        """End all lanes; what runs is cut off."""
        self._is_closing = True
        self._pace.close()
        await self.breaker.close()
        for call in self._queue.drain():
            call.fail(TransientFailure("the data source process ends"))
        tasks = {lane.task for lane in self._lanes if lane.task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2)
        await self._backend.close()

    # What lanes ask for, and tell

    def take(self) -> Call | None:
        """The next call that may run now."""
        return self._queue.take()

    def done(self, call: Call) -> None:
        """A call that was taken, or its transaction, has ended."""
        self._queue.done(call)

    def new_connection(self) -> Connection:
        """Not yet open."""
        return self._backend.connection()

    def lane_idles(self, lane: Lane) -> asyncio.TimerHandle | None:
        """A lane waits for `give`; what is given back ends it when it was idle for too long."""
        self._idle.append(lane)
        if len(self._lanes) == 1:
            return None
        return asyncio.get_running_loop().call_later(self.options.idle_timeout_s, self._retire, lane)

    def lane_ended(self, lane: Lane) -> None:
        """A lane is no more: others may be needed in its place."""
        self._lanes.discard(lane)
        self._dispatch()

    async def cannot_connect(self, lane: Lane, call: Call, began: float, reason: str) -> None:
        """A lane has no connection for the call that it has taken; it had tried since `began`. If others are served
        meanwhile, the server has no room for more: those serve the call, and the pool does not grow for a while."""
        if await self._is_there(lane, began):
            if self._grows_at <= clock.monotonic():
                log.event(logger, logging.WARNING, f"{self.name} takes no more connections", reason=reason)
            self._grows_at = clock.monotonic() + GROW_AGAIN_S
            asyncio.get_running_loop().call_later(GROW_AGAIN_S, self._dispatch)
            self._queue.put_back(call)
        else:
            call.fail(self._unreachable(reason))
            self.breaker.trip(reason)

    def answered(self) -> None:
        """The server has answered a statement, whatever it has said."""
        self.breaker.answered()
        if self.breaker.reason:
            self.breaker.back()

    async def run_transaction(self, transaction: Transaction, first: Call) -> None:
        """See it through; its further calls find it meanwhile."""
        key = (first.client, first.arguments[2])
        if key in self._transactions:
            first.fail(CallFailed("the transaction has begun already"))
            return
        self._transactions[key] = transaction
        await transaction.run(lambda: self._transactions.__delitem__(key))

    # Inside

    def _in_transaction(self, call: Call, number: int) -> None:
        transaction = self._transactions.get((call.client, number))
        if transaction is not None:
            transaction.add(call)
        elif call.op is Op.ROLLBACK:
            call.answer(b"")
        else:
            call.fail(over())

    def _dispatch(self) -> None:
        """Give waiting calls to idle lanes, and add lanes while there are more calls than those."""
        if self._is_closing or self.breaker.reason:
            return
        while self._idle and (call := self._queue.take()) is not None:
            self._idle.pop().give(call)
        while not self._idle and self._may_grow() and (call := self._queue.take()) is not None:
            self._add_lane(self._backend.connection(), False, call)

    def _may_grow(self) -> bool:
        if len(self._lanes) >= self.options.size:
            return False
        return not self._lanes or clock.monotonic() >= self._grows_at

    def _add_lane(self, connection: Connection, is_open: bool, call: Call | None) -> None:
        lane = Lane(self, connection, is_open)
        self._lanes.add(lane)
        lane.start(call)

    def _retire(self, lane: Lane) -> None:
        if lane in self._idle and len(self._lanes) > 1:
            self._idle.remove(lane)
            self._lanes.discard(lane)
            lane.give(None)

    async def _is_there(self, lane: Lane, since: float) -> bool:
        """Whether other lanes show that the server is there."""
        others = self._lanes - {lane}
        if any(other.is_idle() and not other.connection.is_lost() for other in others):
            return True
        until = clock.monotonic() + PROOF_S
        while self.breaker.answered_at < since and not self.breaker.reason:
            if clock.monotonic() >= until or not any(other.call is not None for other in others):
                return False
            await asyncio.sleep(0.005)
        return not self.breaker.reason

    def _unreachable(self, reason: str) -> Unreachable:
        return Unreachable(f"{self.name} is out of reach: {reason}")

    def _down(self, reason: str) -> None:
        """All that wait fail; idle connections are not trusted any more."""
        for call in self._queue.drain():
            call.fail(self._unreachable(reason))
        for lane in self._idle:
            self._lanes.discard(lane)
            lane.give(None)
        self._idle.clear()

    async def _probe(self) -> None:
        """Connect once; the connection becomes a lane, so that the next call finds it open."""
        connection = self._backend.connection()
        try:
            await connection.open()
        except BaseException:
            connection.close()
            raise
        if len(self._lanes) < self.options.size and not self._is_closing:
            self._add_lane(connection, True, None)
        else:
            connection.close()
