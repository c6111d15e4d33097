"""A process's connection to the data-source proxy: many calls at once, each answered, failed or cancelled.

It connects by itself, for ever. Calls that are made while there is no connection wait for one, for a while; those that
were under way when it broke fail: as transient, or as `outcome unknown` where they write.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from atmo_farm import log
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


class Answer(asyncio.Future[bytes]):
    """One call. Cancelling it tells the proxy; its result is the answer, its exception a DataSourceError."""

    _client: ProxyClient
    number: int
    frame: bytes
    writes: bool

    def cancel(self, msg: object = None) -> bool:
        """Give the call up."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._client.given_up(self)
        return cancelled


class ProxyClient:
    """`handlers` are the names by which calls are made: `call` takes their index. Made on a running loop."""

    def __init__(self, path: Path, handlers: Sequence[str], on_lost: Callable[[str], None] = lambda _: None):
        self._path = path
        self._handlers = list(handlers)
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._connection: _Connection | None = None
        self._answers: dict[int, Answer] = {}
        """Under way: their frames have gone out."""
        self._waiting: deque[Answer] = deque()
        self._numbers = 0
        self._task: asyncio.Task[None] | None = None
        self._impatience: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        self._be_patient()
        self._task = self._loop.create_task(self._stay_connected(), name="data source connection")

    def call(self, op: Op, handler: int, deadline: float, arguments: Sequence[object], writes: bool = False) -> Answer:
        """Ask; `writes` says that it must not be repeated blindly. DataSourceError at once if it can never be sent."""
        self._numbers = number = (self._numbers + 1) & 0xFFFFFFFF or 1
        try:
            frame = frames.request(op, number, handler, deadline, arguments)
        except ValueError as error:
            raise DataSourceError(str(error)) from error
        answer = Answer(loop=self._loop)
        answer._client, answer.number, answer.frame, answer.writes = self, number, frame, writes
        if self._connection is not None and not self._waiting and len(self._answers) < MAX_IN_FLIGHT:
            self._answers[number] = answer
            self._connection.send(frame)
        elif self._connection is None and self._impatience is None:
            answer.set_exception(_out_of_reach())
        else:
            self._waiting.append(answer)
        return answer

    def tell(self, op: Op, handler: int, arguments: Sequence[object]) -> None:
        """Ask for what nobody waits for."""
        answer = self.call(op, handler, self._loop.time() + PATIENCE_S, arguments)
        answer.add_done_callback(_ignore)

    def given_up(self, answer: Answer) -> None:
        """An answer was cancelled."""
        if self._answers.pop(answer.number, None) is not None:
            if self._connection is not None:
                self._connection.send(frames.request(Op.CANCEL, answer.number, 0, 0.0, ()))
            self._send_waiting()

    async def close(self) -> None:
        """Disconnect; what is under way fails."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        if self._connection is not None:
            self._connection.abort()
        self.lost()
        self._fail_waiting()

    # What the connection tells

    def greeted(self, connection: _Connection) -> None:
        """The proxy has accepted us."""
        self._connection = connection
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        self._send_waiting()

    def answered(self, number: int, status: int, payload: bytes) -> None:
        """A reply has come; one that nobody waits for any more is passed over."""
        answer = self._answers.pop(number, None)
        if answer is None:
            return
        if status == Status.OK:
            answer.set_result(payload)
        else:
            text = payload.decode("utf-8", "replace")
            unknown = status == Status.UNKNOWN
            answer.set_exception(DataSourceError(text, transient=status == Status.TRANSIENT, unknown=unknown))
        if self._waiting:
            self._send_waiting()

    def lost(self) -> None:
        """The connection is gone, whoever ended it."""
        self._connection = None
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if answer.writes:
                text = "the data source process ended before it answered: whether this was done is unknown"
                answer.set_exception(DataSourceError(text, unknown=True))
            else:
                answer.set_exception(
                    DataSourceError("the data source process ended before it answered", transient=True)
                )
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    # Parts

    def _send_waiting(self) -> None:
        while self._waiting and self._connection is not None and len(self._answers) < MAX_IN_FLIGHT:
            answer = self._waiting.popleft()
            if not answer.done():
                self._answers[answer.number] = answer
                self._connection.send(answer.frame)

    def _be_patient(self) -> None:
        self._impatience = self._loop.call_later(PATIENCE_S, self._lose_patience)

    def _lose_patience(self) -> None:
        self._impatience = None
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(_out_of_reach())

    async def _stay_connected(self) -> None:
        first_s, longest_s = RECONNECT_S
        delay_s = first_s
        reason = ""
        while True:
            self._lost = self._loop.create_future()
            try:
                await self._loop.create_unix_connection(lambda: _Connection(self, self._handlers), str(self._path))
                await self._lost
                if self._impatience is None:
                    self._be_patient()
                    delay_s = first_s
                    self._on_lost("the data source process ended the connection")
            except OSError as error:
                if (error.strerror or "") != reason:
                    reason = error.strerror or ""
                    log.event(logger, logging.DEBUG, "data source process not there", reason=reason)
            await asyncio.sleep(delay_s)
            delay_s = min(longest_s, delay_s * 2)


class _Connection(asyncio.Protocol):
    """One connection, from its hello to its loss."""

    def __init__(self, client: ProxyClient, handlers: list[str]):
        self._client = client
        self._handlers = handlers
        self._splitter = Splitter(frames.REPLY, frames.MAX_REPLY)
        self._frames: list[bytes] = []
        self._flushing = self._greeted = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock: socket.socket = transport.get_extra_info("socket")
        if peer_uid(sock) not in (0, os.geteuid()):
            log.event(logger, logging.ERROR, "the data source socket is not this farm's", peer_uid=peer_uid(sock))
            self._transport.abort()
            return
        self._transport.write(frames.request(Op.HELLO, 0, 0, 0.0, (frames.VERSION, self._handlers)))

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._client.lost()

    def data_received(self, data: bytes) -> None:
        self._splitter.feed(data)
        try:
            while (frame := self._splitter.take()) is not None:
                (_, number, status), payload = frame
                if self._greeted:
                    self._client.answered(number, status, payload)
                elif status == Status.OK:
                    self._greeted = True
                    self._client.greeted(self)
                else:
                    raise MalformedFrame(payload.decode("utf-8", "replace"))
        except MalformedFrame as error:
            log.event(logger, logging.ERROR, "the data source process does not speak as it should", reason=str(error))
            self.abort()

    def send(self, frame: bytes) -> None:
        """Send it with the others of this turn of the loop."""
        self._frames.append(frame)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is not None:
            self._transport.write(b"".join(self._frames))
        self._frames.clear()


def _out_of_reach() -> DataSourceError:
    return DataSourceError("the data source process is out of reach", transient=True)


def _ignore(answer: asyncio.Future[bytes]) -> None:
    if not answer.cancelled():
        answer.exception()
