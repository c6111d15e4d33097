"""Redis as the cache: one connection for all calls of the farm, those of one turn of the loop in one write.

A SET is as safe to repeat as a GET: done twice it leaves what done once leaves. So one whose answer never came has
failed as transient, where another write's outcome would be unknown.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from atmo_farm import clock, log
from atmo_farm.datasource.breaker import PROBE_EVERY_S, Breaker
from atmo_farm.datasource.call import EARLY_S, Call
from atmo_farm.datasource.errors import TransientFailure, Unreachable
from atmo_farm.datasource.redis_connection import RedisLink
from atmo_farm.datasource.redis_options import options
from atmo_farm.directive.connections import RedisConnection
from atmo_farm.ipc.frames import Op
from atmo_farm.ipc.gauges import SourceFigures

logger = logging.getLogger("atmo_farm.datasource")

MAX_UNANSWERED = 1024
"""Commands that the server has not answered; more wait here."""

PIPELINE_BYTES = 1 << 20
"""Values in one write, unless a single one is larger."""

RECONNECT_S = 0.08
"""How long calls wait for a connection in place of one that was lost, before Redis counts as out of reach."""

SHORT_LIFE_S = 1.0
"""A connection that was lost so soon is not replaced at once."""


class RedisCache:
    """`base.Source`. CannotStart when the connection's keys cannot be used as they are.

    `timeout_s`: a connection on which a reply is due that long is given up. `connect_timeout_s` includes the login.
    """

    name = "redis"

    def __init__(
        self,
        connection: RedisConnection,
        *,
        timeout_s: float = 5.0,
        connect_timeout_s: float = 1.0,
        client_name: str = "atmo-farm",
    ):
        self._options = options(connection, client_name)
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._link: RedisLink | None = None
        self._waiting: deque[Call] = deque()
        self._scheduled = self._was_short = False
        self._breaker = Breaker(self.name, self._probe, self._down)
        self._reconnecting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, behind the scenes; until then calls fail with the reason."""
        self._breaker.start()

    def problem(self) -> str:
        """Why it is out of reach."""
        return self._breaker.reason

    def execute(self, call: Call) -> None:
        """Queue a CACHE_GET or CACHE_SET for the end of this turn of the loop."""
        if self._breaker.reason:
            call.fail(Unreachable(f"redis is out of reach: {self._breaker.reason}"))
            return
        self._waiting.append(call)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send_waiting)

    def cancel(self, call: Call) -> None:
        """Nobody waits for it: it is not sent, or its reply is read and dropped."""
        link, sent_at = self._link, call.run
        is_late = clock.monotonic() >= call.deadline - EARLY_S
        if is_late and sent_at is not None and link is not None and link.heard_at < sent_at:
            self._breaker.silent()

    def forget(self, client: object) -> None:
        """Nothing belongs to a client."""

    def figures(self) -> SourceFigures:
        """It has one connection, which is busy while a reply is due."""
        link = self._link
        unanswered = link.unanswered if link is not None else 0
        return SourceFigures(
            is_up=not self._breaker.reason,
            connections=int(link is not None),
            busy=int(unanswered > 0),
            waiting=len(self._waiting),
            outages=self._breaker.opened,
        )

    async def ping(self) -> None:
        """By a connection of its own."""
        link = await self._connect(self._connect_timeout_s)
        link.close()

    async def close(self) -> None:
        """Disconnect; what is under way fails."""
        await self._breaker.close()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait({self._reconnecting})
        self._fail_all(TransientFailure("the data source process ends"))

    # Calls

    def _send_waiting(self) -> None:
        """All calls of this turn as one pipeline, as far as the server may owe replies."""
        self._scheduled = False
        link, waiting = self._link, self._waiting
        if link is None:
            return
        while waiting and link.can_send and (room := MAX_UNANSWERED - link.unanswered) > 0:
            calls: list[Call] = []
            size = 0
            while waiting and len(calls) < room and size < PIPELINE_BYTES:
                call = waiting.popleft()
                if not call.ended:  # given up while it waited
                    calls.append(call)
                    size += len(call.arguments[1]) if call.op is Op.CACHE_SET else 0
            if calls:
                link.send(calls)

    def _progress(self) -> None:
        self._breaker.answered()
        if self._waiting:
            self._send_waiting()

    def _fail_all(self, error: TransientFailure) -> None:
        """Those that wait, and those whose replies have not come."""
        link, self._link = self._link, None
        calls = [*(link.close() if link is not None else ()), *self._waiting]
        self._waiting.clear()
        for call in calls:
            call.fail(error)

    # Connecting

    async def _connect(self, within_s: float) -> RedisLink:
        link = RedisLink(self._options, self._timeout_s, self._progress, self._lost)
        await link.connect(within_s)
        return link

    async def _probe(self) -> None:
        if self._was_short:
            await asyncio.sleep(PROBE_EVERY_S)
        self._link = await self._connect(self._connect_timeout_s)

    async def _reconnect(self) -> None:
        try:
            self._link = await self._connect(RECONNECT_S)
        except Unreachable as error:
            self._breaker.trip(str(error))
        else:
            self._send_waiting()

    def _lost(self, reason: str) -> None:
        """Servers close connections that were idle for long: calls that wait may wait a little for another."""
        assert self._link is not None
        link, self._link = self._link, None
        log.event(logger, logging.DEBUG, "connection to redis lost", reason=reason)
        error = Unreachable(f"redis: the connection was lost before the answer came: {reason}")
        for call in link.close():
            call.fail(error)
        self._was_short = clock.monotonic() - link.opened_at < SHORT_LIFE_S
        if self._was_short:
            self._breaker.trip(reason)
        else:
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(), name="redis reconnect")

    def _down(self, reason: str) -> None:
        self._fail_all(Unreachable(f"redis is out of reach: {reason}"))
