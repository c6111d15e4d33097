"""Whose the writer is: one statement's, or one transaction's, the others in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque

from atmo_farm import clock
from atmo_farm.datasource.errors import TransientFailure

Turn = asyncio.Future[None]

BUSY = "other statements and transactions kept the database busy until the deadline"


class Turns:
    """`ask`, wait for the turn, `pass_on`."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: deque[Turn] = deque()

    def ask(self) -> Turn:
        """A future that is done when it is one's turn; one that fails, or is cancelled, is passed over."""
        turn: Turn = asyncio.get_running_loop().create_future()
        if self._is_taken:
            self._waiting.append(turn)
        else:
            self._is_taken = True
            turn.set_result(None)
        return turn

    async def wait(self, turn: Turn, deadline: float) -> None:
        """Return when it is one's turn; TransientFailure at the deadline (clock.monotonic() seconds)."""
        if turn.done():
            return turn.result()
        timer = asyncio.get_running_loop().call_later(max(0.0, deadline - clock.monotonic()), refuse, turn, BUSY)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                self.pass_on()
            raise
        finally:
            timer.cancel()

    def pass_on(self) -> None:
        """One's turn is over."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False


def refuse(turn: Turn, why: str) -> None:
    """It is wanted no more."""
    if not turn.done():
        turn.set_exception(TransientFailure(why))
