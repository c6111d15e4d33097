"""A process's connection to the data-source proxy: many calls at once, each answered, failed or cancelled.

It connects by itself, for ever. Calls that are made while there is no connection wait for one, for a while; those that
were under way when it broke fail: as transient, or as `outcome unknown` where they write.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from atmo_farm import clock, log
from atmo_farm.errors import DataSourceError
from atmo_farm.ipc import frames
from atmo_farm.ipc.frames import MalformedFrame, Op, Splitter, Status
from atmo_farm.ipc.peer import peer_uid

logger = logging.getLogger("atmo_farm.ipc")

MAX_IN_FLIGHT = 1024
"""Calls under way; more wait their turn."""

PATIENCE_S = 2.0
"""How long calls wait for a connection: a proxy that died is back within a second."""

RECONNECT_S = (0.01, 0.5)
"""Delay before the second attempt to connect, and the longest; it doubles."""

HIGH_WATER = 1 << 20
"""Bytes that wait for the proxy to read them before no more calls are sent."""

LARGE = 64 << 10
"""Bytes of a call that is not kept for the end of the turn."""


_OK, _UNKNOWN, _TRANSIENT = Status.OK, Status.UNKNOWN, Status.TRANSIENT


class Answer(asyncio.Future[bytes]):
    """One call. Cancelling it tells the proxy; its result is the answer, its exception a DataSourceError."""

    __slots__ = ("client", "frame", "number", "writes")

    client: ProxyClient
    number: int
    writes: bool
    frame: bytes
    """While it waits to be sent."""

    def cancel(self, msg: object = None) -> bool:
        """Give the call up."""
        cancelled = super().cancel(msg)
        if cancelled:
            self.client.given_up(self)
        return cancelled


class ProxyClient:
    """`handlers` are the names by which calls are made: `call` takes their index. Made on a running loop.

    `on_lost` is told the reason each time a connection that was good is lost.
    """

    def __init__(self, path: Path, handlers: Sequence[str], on_lost: Callable[[str], None] = lambda _: None):
        self._path = path
        self._handlers = list(handlers)
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._connection: _Connection | None = None
        """The one that the proxy has accepted."""
        self._answers: dict[int, Answer] = {}
        """Under way: their frames have gone out."""
        self._waiting: OrderedDict[int, Answer] = OrderedDict()
        self._numbers = 0
        self._task: asyncio.Task[None] | None = None
        self._impatience: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._be_patient()
        self._task = self._loop.create_task(self._stay_connected(), name="data source connection")

    def call(self, op: Op, handler: int, deadline: float, arguments: Sequence[object], writes: bool = False) -> Answer:
        """Ask; `writes` says that it must not be repeated blindly. DataSourceError at once if it can never be sent.

        `deadline`, in clock.monotonic() seconds, is for the proxy; who asks cancels the answer at that time by itself.
        """
        self._numbers = number = (self._numbers + 1) & 0xFFFFFFFF or 1
        try:
            frame = frames.request(op, number, handler, deadline, arguments)
        except ValueError as error:
            raise DataSourceError(str(error)) from error
        answer = Answer(loop=self._loop)
        answer.client, answer.number, answer.writes = self, number, writes
        connection = self._connection
        if connection is not None:
            if not self._waiting and len(self._answers) < MAX_IN_FLIGHT and not connection.choked:
                self._answers[number] = answer
                connection.send(frame)
                return answer
        elif self._impatience is None:
            answer.set_exception(_out_of_reach())
            return answer
        answer.frame = frame
        self._waiting[number] = answer
        return answer

    def tell(self, op: Op, handler: int, arguments: Sequence[object]) -> None:
        """Ask for what nobody waits for."""
        answer = self.call(op, handler, clock.monotonic() + PATIENCE_S, arguments)
        answer.add_done_callback(_ignore)

    def given_up(self, answer: Answer) -> None:
        """An answer was cancelled."""
        if self._answers.pop(answer.number, None) is None:
            self._waiting.pop(answer.number, None)
        elif self._connection is not None:
            self._connection.send(frames.request(Op.CANCEL, answer.number, 0, 0.0, ()))
            self.send_waiting()

    async def close(self) -> None:
        """Disconnect; what is under way fails."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        self._fail_waiting()

    # What the connection tells

    def greeted(self, connection: _Connection) -> None:
        """The proxy has accepted us."""
        self._connection = connection
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        self.send_waiting()

    def lost(self) -> None:
        """The connection that was accepted is gone, whoever ended it."""
        self._connection = None
        self._be_patient()
        answers = list(self._answers.values())
        self._answers.clear()
        for answer in answers:
            text = "the data source process ended before it answered"
            if answer.writes:
                answer.set_exception(DataSourceError(f"{text}: whether this was done is unknown", unknown=True))
            else:
                answer.set_exception(DataSourceError(text, transient=True))

    def send_waiting(self) -> None:
        """Send what waits, as far as the proxy takes it now."""
        connection, waiting, answers = self._connection, self._waiting, self._answers
        if connection is None:
            return
        while waiting and len(answers) < MAX_IN_FLIGHT and not connection.choked:
            number, answer = waiting.popitem(last=False)
            answers[number] = answer
            connection.send(answer.frame)

    # Parts

    def _be_patient(self) -> None:
        self._impatience = self._loop.call_later(PATIENCE_S, self._lose_patience)

    def _lose_patience(self) -> None:
        self._impatience = None
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        while self._waiting:
            _, answer = self._waiting.popitem(last=False)
            answer.set_exception(_out_of_reach())

    async def _stay_connected(self) -> None:
        first_s, longest_s = RECONNECT_S
        delay_s = first_s
        reason = ""
        while True:
            connection = _Connection(self, self._handlers, self._answers)
            try:
                await self._loop.create_unix_connection(lambda: connection, str(self._path))  # noqa: B023 - at once
                await connection.ended
            except OSError as error:
                if (error.strerror or "") != reason:
                    reason = error.strerror or ""
                    log.event(logger, logging.DEBUG, "data source process not there", reason=reason)
            finally:
                connection.abort()
            if connection.greeted_at:
                self._on_lost("the data source process ended the connection")
                if clock.monotonic() - connection.greeted_at > longest_s:
                    delay_s = first_s
            await asyncio.sleep(delay_s)
            delay_s = min(longest_s, delay_s * 2)


class _Connection(asyncio.Protocol):
    """One connection, from its hello to its loss. `answers` are the calls under way, its client's own."""

    def __init__(self, client: ProxyClient, handlers: list[str], answers: dict[int, Answer]):
        self._client = client
        self._handlers = handlers
        self._answers = answers
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter(frames.REPLY, frames.MAX_REPLY)
        self._frames: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self.greeted_at = 0.0
        self.choked = False
        """The proxy does not read."""
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello to a proxy that runs as this farm's user or as root."""
        self._transport = cast(asyncio.Transport, transport)
        uid = peer_uid(transport.get_extra_info("socket"))
        if uid not in (0, os.geteuid()):
            log.event(logger, logging.ERROR, "the data source socket is not this farm's", peer_uid=uid)
            self.abort()
            return
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._transport.write(frames.request(Op.HELLO, 0, 0, 0.0, (frames.VERSION, self._handlers)))

    def connection_lost(self, _: Exception | None) -> None:
        """Whoever ended it."""
        self.abort()
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """More replies; those that nobody waits for any more are passed over."""
        pop = self._answers.pop
        try:
            for (_, number, status), payload in self._splitter.split(data):
                answer = pop(number, None)
                if answer is None:
                    if not self.greeted_at:
                        self._greet(status, payload)
                elif status == _OK:
                    answer.set_result(payload)
                else:
                    answer.set_exception(_failure(status, payload))
        except MalformedFrame as error:
            log.event(logger, logging.ERROR, "the data source process does not speak as it should", reason=str(error))
            self.abort()
            return
        self._client.send_waiting()

    def pause_writing(self) -> None:
        """The proxy does not read."""
        self.choked = True

    def resume_writing(self) -> None:
        """It reads again."""
        self.choked = False
        self._client.send_waiting()

    def send(self, frame: bytes) -> None:
        """Send it with the others of this turn of the loop."""
        if not self._frames:
            self._loop.call_soon(self._flush)
        self._frames.append(frame)
        if len(frame) >= LARGE:
            self._flush()

    def abort(self) -> None:
        """End at once: what is under way fails."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
            if self.greeted_at:
                self._client.lost()

    def _greet(self, status: int, payload: bytes) -> None:
        if status != _OK:
            raise MalformedFrame(payload.decode("utf-8", "replace"))
        self.greeted_at = clock.monotonic()
        self._client.greeted(self)

    def _flush(self) -> None:
        if self._frames and self._transport is not None:
            self._transport.write(b"".join(self._frames) if len(self._frames) > 1 else self._frames[0])
        self._frames.clear()


def _failure(status: int, payload: bytes) -> DataSourceError:
    text = payload.decode("utf-8", "replace")
    return DataSourceError(text, transient=status == _TRANSIENT, unknown=status == _UNKNOWN)


def _out_of_reach() -> DataSourceError:
    return DataSourceError("the data source process is out of reach", transient=True)


def _ignore(answer: asyncio.Future[bytes]) -> None:
    if not answer.cancelled():
        answer.exception()
