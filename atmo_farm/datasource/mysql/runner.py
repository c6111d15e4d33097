"""Runs statements on a session, one at a time, each until its end, its deadline or a cancel."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from atmo_farm import clock
from atmo_farm.datasource.errors import Unreachable
from atmo_farm.datasource.mysql.session import Session

ANSWER_S = 1.0
"""After a cancel: how long the server may take before the connection is cut."""

_NEVER = math.inf


class Runner:
    """`stop` tells a session's server to stop what it runs, within some seconds, or raises Unreachable."""

    def __init__(self, session: Session, stop: Callable[[Session, float], Awaitable[None]]):
        self.session = session
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._is_running = self._may_stop = False
        self._deadline = _NEVER
        """Of what runs, or ran last."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._stopping: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self.gave_up = False
        """The last statement's connection was cut because there was no answer in time."""
        self.broken = False

    @property
    def was_stopped(self) -> bool:
        """The server was told to stop the last statement."""
        return self._stopping is not None

    async def run(self, text: bytes, deadline: float, wants_rows: bool = False, may_stop: bool = True) -> bytes:
        """As Link.send. At the deadline the server is told to stop it, or, unless it `may_stop`, the connection is cut.
        When this returns or raises, `broken` says whether the connection can be used again."""
        self._begin(deadline, may_stop)
        session = self.session
        try:
            return await session.link.send(text, wants_rows)
        except asyncio.CancelledError:
            self.give_up()
            raise
        finally:
            self._is_running = False
            if self._stopping is not None:
                await self._stopped(self._stopping)
            self.broken = self.broken or session.link.is_spent or not session.is_quoted_well()

    def cancel(self) -> None:
        """Stop what runs now; nothing when nothing does."""
        if not self._is_running or self._stopping is not None or self.broken:
            return
        if self._may_stop:
            self._stopping = self._loop.create_task(self._tell(), name="mysql cancel")
            self._patience = self._loop.call_later(ANSWER_S, self.give_up)
        else:
            self.give_up()

    def give_up(self) -> None:
        """Cut the connection: what runs fails at once."""
        self.gave_up = self.broken = True
        self.session.link.cut()

    def close(self) -> None:
        """Disconnect at once."""
        self.broken = True
        for timer in (self._timer, self._patience):
            if timer is not None:
                timer.cancel()
        if self._stopping is not None:
            self._stopping.cancel()
        self.session.link.close()

    def _begin(self, deadline: float, may_stop: bool) -> None:
        self._stopping, self.gave_up = None, False
        self._is_running, self._may_stop, self._deadline = True, may_stop, deadline
        if deadline < self._timer_at:
            self._set_timer()

    def _set_timer(self) -> None:
        """One timer for many statements: most end long before it, and only an earlier deadline needs one of its own."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self._loop.call_later(max(0.0, self._deadline - clock.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, _NEVER
        if not self._is_running:
            return
        if clock.monotonic() >= self._deadline:
            self.cancel()
        else:
            self._set_timer()

    async def _tell(self) -> None:
        """When this, or what it should bring about, takes longer than ANSWER_S, the connection is cut."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._stop(self.session, ANSWER_S)
        except (TimeoutError, Unreachable):
            self.give_up()

    async def _stopped(self, stopping: asyncio.Task[None]) -> None:
        """The statement has ended; lest it stops the next one too, the server must have been told by then."""
        if not self.broken:
            await asyncio.wait({stopping})
        if self._patience is not None:
            self._patience.cancel()
