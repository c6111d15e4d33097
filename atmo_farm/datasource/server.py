"""The proxy's Unix socket: one connection for each process that asks, each with its calls under way.

A connection gets its turn: at most TURN requests are taken from it before the others have theirs, so that one that
floods the proxy is slow itself. One that does not read its replies is not read from either. One that breaks the
protocol is dropped, and its calls with it; nobody else notices.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import cast

from atmo_farm import log
from atmo_farm.datasource.call import Call
from atmo_farm.datasource.sources import Sources
from atmo_farm.ipc import frames
from atmo_farm.ipc.frames import MalformedFrame, Op, Splitter, Status
from atmo_farm.ipc.peer import peer_uid

logger = logging.getLogger("atmo_farm.datasource")

TURN = 16
"""Requests of one connection in a row."""

MAX_CALLS = 4096
"""Calls of one connection under way; the client keeps to less by itself."""

MAX_HANDLERS = 4096
HIGH_WATER = 1 << 20
"""Bytes of replies that wait for a client before no more of its requests are taken."""


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, sources: Sources, connections: set[Connection]):
        self._sources = sources
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter(frames.REQUEST, frames.MAX_REQUEST)
        self._calls: dict[int, Call] = {}
        self._handlers: list[str] = []
        self._replies: list[bytes] = []
        self._scheduled = self._flushing = self._choked = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let in who runs as this farm's user or as root."""
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        uid = peer_uid(transport.get_extra_info("socket"))
        if uid not in (0, os.geteuid()):
            self._drop(f"its peer runs as user id {uid}")
            return
        self.transport.set_write_buffer_limits(high=HIGH_WATER)

    def connection_lost(self, _: Exception | None) -> None:
        """Whoever asked is gone: nothing that was begun for it is of use to anybody."""
        self._connections.discard(self)
        self.transport = None
        for call in tuple(self._calls.values()):
            self._give_up(call)
        self._calls.clear()
        self._sources.forget(self)

    def data_received(self, data: bytes) -> None:
        """More requests."""
        self._splitter.feed(data)
        if not self._scheduled:
            self._turn()

    def pause_writing(self) -> None:
        """It does not read."""
        self._choked = True

    def resume_writing(self) -> None:
        """It reads again."""
        self._choked = False
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        transport = self.transport
        if transport is None:
            return
        try:
            for _ in range(TURN):
                if self._choked:
                    break
                frame = self._splitter.take()
                if frame is None:
                    transport.resume_reading()
                    return
                (_, number, handler, op, deadline), payload = frame
                self._request(number, handler, op, deadline, payload)
        except MalformedFrame as error:
            self._drop(f"it sent a malformed frame: {error}")
            return
        transport.pause_reading()
        if not self._choked:
            self._schedule()

    def _request(self, number: int, handler: int, op: int, deadline: float, payload: bytes) -> None:
        arguments = frames.arguments(op, payload)
        if op == Op.CANCEL:
            call = self._calls.pop(number, None)
            if call is not None:
                self._give_up(call)
            return
        if op == Op.HELLO:
            self._hello(number, *arguments)
            return
        if handler >= len(self._handlers):
            raise MalformedFrame(f"handler {handler} is not in its hello")
        if number in self._calls or len(self._calls) >= MAX_CALLS:
            raise MalformedFrame(f"call {number}: too many calls, or this number is taken")
        call = Call(self, number, Op(op), self._handlers[handler], deadline, arguments, self._ended)
        self._calls[number] = call
        self._sources.execute(call)

    def _hello(self, number: int, version: int, handlers: list[str]) -> None:
        if version == frames.VERSION and 0 < len(handlers) <= MAX_HANDLERS and not self._handlers:
            self._handlers = handlers
            self._reply(frames.reply(number, Status.OK, frames.encode(frames.VERSION)))
            return
        text = f"the proxy speaks version {frames.VERSION}; say hello once, with at least one handler"
        self._reply(frames.reply(number, Status.REFUSED, text.encode()))
        self._flush()
        if self.transport is not None:
            self.transport.close()

    def _ended(self, call: Call, status: Status, payload: bytes) -> None:
        """A call has its answer."""
        del self._calls[call.number]
        self._reply(frames.reply(call.number, status, payload))

    def _give_up(self, call: Call) -> None:
        call.give_up()
        self._sources.cancel(call)

    def _reply(self, data: bytes) -> None:
        self._replies.append(data)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write for all replies of a turn of the loop."""
        self._flushing = False
        if self.transport is not None and self._replies:
            self.transport.write(b"".join(self._replies))
        self._replies.clear()

    def _drop(self, reason: str) -> None:
        log.event(logger, logging.ERROR, "connection to the data source process dropped", reason=reason)
        if self.transport is not None:
            self.transport.abort()


class Server:
    """The listening socket, 0600 in a folder of the farm's own."""

    def __init__(self, sources: Sources, path: Path):
        self._sources = sources
        self._path = path
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; a socket file that a dead process has left is replaced."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: Connection(self._sources, self._connections), str(self._path), backlog=1024
            )
        finally:
            os.umask(before)

    async def close(self) -> None:
        """Listen no more and end all connections."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            if connection.transport is not None:
                connection.transport.abort()
        self._path.unlink(missing_ok=True)
