"""Messages to the server and their answers, one after the other, each with a deadline at which it is told to stop."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from psycopg2.extensions import cursor

from atmo_farm import clock
from atmo_farm.datasource.errors import Unreachable
from atmo_farm.datasource.postgresql.link import Link

if TYPE_CHECKING:
    from atmo_farm.datasource.postgresql.backend import PostgresBackend

GRACE_S = 0.1
"""After a statement's deadline, for the server to end it by its own timer, before it is cancelled."""

ANSWER_S = 1.0
"""After a cancel, and for ROLLBACK: how long the server may take."""

EARLY_S = 0.01
"""So shortly before its deadline a statement may be left to the server's timer."""


class Exchange:
    """Of one connection."""

    def __init__(self, link: Link, backend: PostgresBackend):
        self._link = link
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._cancelling: asyncio.Task[None] | None = None
        self._is_timed = True
        """The server ends the statement at its deadline by itself."""
        self._deadline = self._rings_at = math.inf
        self._alarm: asyncio.TimerHandle | None = None
        """It is not set anew for each statement: when it rings too early, it is set again."""
        self.is_given_up = False
        """The statement was told to stop: no further message of it goes out."""

    async def send(self, text: str, deadline: float, is_timed: bool = True) -> cursor:
        """To the server and back. At the deadline the server is told to cancel it; GRACE_S later if it `is_timed`: then
        it should have done so by itself."""
        self._deadline, self._is_timed = deadline, is_timed
        if self._stops_at() < self._rings_at:
            self._set_alarm()
        try:
            return await self._link.send(text, self._backend.longest_answer)
        except asyncio.CancelledError:
            self._link.drop("given up")
            raise
        finally:
            if self._cancelling is not None:
                await self._cancelled()

    def cancel(self) -> None:
        """Ask the server to stop what runs; not at the deadline, if it does so by itself then."""
        self.is_given_up = True
        if not self._is_timed or self._deadline > clock.monotonic() + EARLY_S:
            self._stop()

    def close(self) -> None:
        """Disconnect."""
        self._link.drop("closed")
        if self._alarm is not None:
            self._alarm.cancel()

    def _stop(self) -> None:
        self.is_given_up = True
        if self._link.busy and self._cancelling is None:
            self._cancelling = self._loop.create_task(self._cancel(), name="cancel a statement")

    def _stops_at(self) -> float:
        return self._deadline + GRACE_S if self._is_timed else self._deadline

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at = self._stops_at()
        self._alarm = self._loop.call_later(max(0.001, self._rings_at - clock.monotonic()), self._ring)

    def _ring(self) -> None:
        self._alarm, self._rings_at = None, math.inf
        if not self._link.busy:
            return
        if self._stops_at() > clock.monotonic():
            self._set_alarm()
        else:
            self._stop()

    async def _cancel(self) -> None:
        """Within ANSWER_S the statement has ended, and the server will not stop the next one instead of it; or the
        connection is dropped."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._backend.cancel(self._link.pid)
                await self._link.until_idle()
        except (TimeoutError, Unreachable):
            self._link.drop("the server did not stop the statement")

    async def _cancelled(self) -> None:
        """Wait for a cancel under way."""
        cancelling, self._cancelling = self._cancelling, None
        assert cancelling is not None
        await asyncio.wait({cancelling})
