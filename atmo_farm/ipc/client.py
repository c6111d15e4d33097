"""A process's connection to the data-source proxy: many calls at once, each answered, failed or cancelled.

It connects by itself, for ever. Calls that are made while there is no connection wait for one, for a while; those that
were under way when it broke fail: as transient, or as `outcome unknown` where they write.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from atmo_farm import clock, log
from atmo_farm.errors import DataSourceError
from atmo_farm.ipc.frames import Asked, Op
from atmo_farm.ipc.link import Answer, Link

__all__ = ["Answer", "ProxyClient"]

logger = logging.getLogger("atmo_farm.ipc")

MAX_IN_FLIGHT = 1024
"""Calls under way; more wait their turn."""

PATIENCE_S = 2.0
"""How long calls wait for a connection: a proxy that died is back within a second."""

RECONNECT_S = (0.01, 0.5)
"""Delay before the second attempt to connect, and the longest; it doubles."""

ABSENT_S = 0.2
"""The longest delay while nobody listens: a proxy that died is about to come back."""

SWEEP_S = 0.01
"""A call that was cancelled is told to the proxy within this time."""

_CACHE_GET, _CANCEL = Op.CACHE_GET, Op.CANCEL


class ProxyClient:
    """`handlers` are the names by which calls are made: `call` takes their index. Made on a running loop.

    `on_lost` is told the reason each time a connection that was good is lost.
    """

    def __init__(self, path: Path, handlers: Sequence[str], on_lost: Callable[[str], None] = lambda _: None):
        self._path = path
        self._handlers = list(handlers)
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._create_answer = self._loop.create_future
        self._connection: Link | None = None
        """The one that the proxy has accepted."""
        self._direct: Link | None = None
        """The same, while it takes more and no calls wait."""
        self._answers: dict[int, Answer] = {}
        """Under way: they have gone out."""
        self._writes: set[int] = set()
        """Which of them must not be repeated blindly."""
        self._waiting: deque[tuple[Asked, Answer, bool]] = deque()
        self._numbers = 0
        self._task: asyncio.Task[None] | None = None
        self._impatience: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._be_patient()
        self._task = self._loop.create_task(self._stay_connected(), name="data source connection")

    def call(self, op: Op, handler: int, deadline: float, arguments: Sequence[object], writes: bool = False) -> Answer:
        """Ask; `writes` says that it must not be repeated blindly. The arguments must not change any more.

        `deadline`, in clock.monotonic() seconds, is for the proxy; who asks cancels the answer at that time by itself.
        """
        self._numbers = number = self._numbers + 1
        asked = (op, number, handler, deadline, arguments)
        answer: Answer = self._create_answer()
        direct = self._direct
        if direct is not None and len(self._answers) < MAX_IN_FLIGHT:
            self._answers[number] = answer
            if writes:
                self._writes.add(number)
            if op is _CACHE_GET and direct.requests:
                direct.requests.append(asked)  # the commonest call on the shortest way
            else:
                direct.send(asked)
        elif self._connection is None and self._impatience is None:
            answer.set_exception(_out_of_reach())
        else:
            self._waiting.append((asked, answer, writes))
            self._direct = None
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_S, self._look_for_cancelled)
        return answer

    def tell(self, op: Op, handler: int, arguments: Sequence[object]) -> None:
        """Ask for what nobody waits for."""
        answer = self.call(op, handler, clock.monotonic() + PATIENCE_S, arguments)
        answer.add_done_callback(_ignore)

    async def close(self) -> None:
        """Disconnect; what is under way fails."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for timer in (self._impatience, self._sweep):
            if timer is not None:
                timer.cancel()
        self._impatience = self._sweep = None
        self._fail_waiting()

    # What the connection tells and asks

    def greeted(self, connection: Link) -> None:
        """The proxy has accepted us."""
        self._connection = connection
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        self.send_waiting()

    def lost(self) -> None:
        """The connection that was accepted is gone, whoever ended it."""
        self._connection = self._direct = None
        self._be_patient()
        for number in list(self._answers):
            text = "the data source process ended before it answered"
            if number in self._writes:
                self.failed(number, DataSourceError(f"{text}: whether this was done is unknown", unknown=True))
            else:
                self.failed(number, DataSourceError(text, transient=True))

    def failed(self, number: int, error: DataSourceError) -> None:
        """A call has ended without the answer."""
        answer = self._answers.pop(number, None)
        self._writes.discard(number)
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def send_waiting(self) -> None:
        """Send what waits, as far as the proxy takes it now."""
        connection, waiting, answers = self._connection, self._waiting, self._answers
        while waiting and connection is not None and len(answers) < MAX_IN_FLIGHT and not connection.choked:
            asked, answer, writes = waiting.popleft()
            if not answer.done():  # cancelled while it waited
                answers[asked[1]] = answer
                if writes:
                    self._writes.add(asked[1])
                connection.send(asked)
        if not waiting and connection is not None and not connection.choked:
            self._direct = connection

    def choked(self) -> None:
        """The proxy does not read."""
        self._direct = None

    # Parts

    def _be_patient(self) -> None:
        self._impatience = self._loop.call_later(PATIENCE_S, self._lose_patience)

    def _lose_patience(self) -> None:
        self._impatience = None
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        while self._waiting:
            _, answer, _ = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(_out_of_reach())

    def _look_for_cancelled(self) -> None:
        """Tell the proxy of the calls that nobody waits for any more, and forget those that have not gone out."""
        cancelled = [number for number, answer in self._answers.items() if answer.done()]
        for number in cancelled:
            del self._answers[number]
            self._writes.discard(number)
            if self._connection is not None:
                self._connection.send((_CANCEL, number, 0, 0.0, ()))
        if self._waiting:
            self._waiting = deque(waiting for waiting in self._waiting if not waiting[1].done())
            self.send_waiting()
        self._sweep = None
        if self._answers or self._waiting:
            self._sweep = self._loop.call_later(SWEEP_S, self._look_for_cancelled)

    async def _stay_connected(self) -> None:
        first_s, longest_s = RECONNECT_S
        delay_s = first_s
        reason = ""
        while True:
            is_absent = False
            connection = Link(self, self._handlers, self._answers, self._writes)
            try:
                await self._loop.create_unix_connection(lambda: connection, str(self._path))  # noqa: B023 - at once
                await connection.ended
            except OSError as error:
                is_absent = True
                if (error.strerror or "") != reason:
                    reason = error.strerror or ""
                    log.event(logger, logging.DEBUG, "data source process not there", reason=reason)
            finally:
                connection.abort()
            if connection.greeted_at:
                self._on_lost("the data source process ended the connection")
                if clock.monotonic() - connection.greeted_at > longest_s:
                    delay_s = first_s
            await asyncio.sleep(min(delay_s, ABSENT_S) if is_absent else delay_s)
            delay_s = min(longest_s, delay_s * 2)


def _out_of_reach() -> DataSourceError:
    return DataSourceError("the data source process is out of reach", transient=True)


def _ignore(answer: asyncio.Future[bytes]) -> None:
    if not answer.cancelled():
        answer.exception()
