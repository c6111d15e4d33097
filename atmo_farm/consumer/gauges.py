"""The numbers of a worker that are looked up, not counted: once a second into the arena. And those of host calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from atmo_farm import clock, log
from atmo_farm.consumer.guest_log import HandlerGuestLog
from atmo_farm.directive.model import Handler
from atmo_farm.ipc import gauges, histogram
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.histogram import Timed
from atmo_farm.runtime.function import Function
from atmo_farm.streams.base import Stream

logger = logging.getLogger("atmo_farm.consumer")

EVERY_S = 1.0

LAG_EVERY_S = 5.0
"""To ask for the lag costs the broker a request."""

LAG_PATIENCE_S = 10.0

SPARE_S = 5.0
"""What a message may take over its timeout and its pause before the next attempt, until its worker is said to stand."""

PROGRESS = (Field.OK, Field.FAILED, Field.RETRIED)

TIMED = {
    "cache_get": Timed.CACHE,
    "cache_set": Timed.CACHE,
    "db_exec": Timed.DATABASE,
    "fetch_url": Timed.HTTP,
    "graphql_query": Timed.HTTP,
}


def waited(slot: memoryview, name: str, seconds: float) -> None:
    """Count how long a guest waited for this host function."""
    if (timed := TIMED.get(name)) is not None:
        histogram.count(slot, timed, seconds)


class Gauges:
    """Of one worker."""

    def __init__(
        self,
        slot: memoryview,
        handler: Handler,
        stream: Stream,
        functions: Collection[Function],
        guest_log: HandlerGuestLog,
    ):
        self._slot = slot
        self._stream = stream
        self._functions = functions
        self._guest_log = guest_log
        self._before = {
            field: slot[field] for field in (Field.LOG_LINES_DROPPED, Field.GUEST_LINES_DROPPED, Field.POOL_WAITS)
        }
        """What the processes before this one have counted."""
        self._settled = self._progress()
        self._lags = False
        self._asking: asyncio.Task[None] | None = None
        slot[Field.PATIENCE_MS] = int((handler.timeout_s + handler.retry.max_delay_s + SPARE_S) * 1000)

    def start(self, also: Callable[[], None]) -> None:
        """Write now, and then each second as long as the running loop turns; call `also` each time."""
        loop = asyncio.get_running_loop()
        self._asking = loop.create_task(self._ask_for_lag(), name="lag")
        self._turn(loop, also)

    def _turn(self, loop: asyncio.AbstractEventLoop, also: Callable[[], None]) -> None:
        self.write()
        also()
        loop.call_later(EVERY_S, self._turn, loop, also)

    def write(self) -> None:
        """All but the lag."""
        slot, now = self._slot, clock.monotonic_ns()
        slot[Field.PENDING] = self._stream.pending()
        slot[Field.POOL] = sum(function.instances for function in self._functions)
        for field, ours in (
            (Field.LOG_LINES_DROPPED, log.dropped()),
            (Field.GUEST_LINES_DROPPED, self._guest_log.dropped),
            (Field.POOL_WAITS, sum(function.waits for function in self._functions)),
        ):
            slot[field] = self._before[field] + ours
        if (settled := self._progress()) != self._settled:
            self._settled, slot[Field.PROGRESS_NS] = settled, now
        if not slot[Field.PENDING] and not slot[Field.IN_FLIGHT]:
            slot[Field.IDLE_NS] = now
        if not self._lags:
            slot[Field.NO_LAG_NS] = now

    def _progress(self) -> int:
        return sum(self._slot[field] for field in PROGRESS)

    async def _ask_for_lag(self) -> None:
        while True:
            try:
                lag = await asyncio.wait_for(self._stream.lag(), LAG_PATIENCE_S)
            except Exception as error:
                log.event(logger, logging.DEBUG, "lag not known", reason=f"{type(error).__name__}: {error}")
                lag = {}
            self._lags = any(lag.values())
            gauges.write_lag(self._slot, lag)
            await asyncio.sleep(LAG_EVERY_S)
