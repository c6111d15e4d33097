"""One process that asks the proxy: its connection, and its calls under way.

A connection gets its turn: at most TURN requests are taken from it before the others have theirs, so that one that
floods the proxy is slow itself. One that does not read its replies is not read from either. One that breaks the
protocol is dropped, and its calls with it; nobody else notices.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import cast

from atmo_farm import log
from atmo_farm.datasource.call import Call
from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.sources import Sources
from atmo_farm.ipc import frames
from atmo_farm.ipc.frames import AnyRequest, CacheGet, Cancel, Hello, MalformedFrame, Reply, Splitter, Status
from atmo_farm.ipc.peer import peer_uid

logger = logging.getLogger("atmo_farm.datasource")

TURN = 64
"""Requests of one connection in a row."""

MAX_CALLS = 4096
"""Calls of one connection under way; the client keeps to less by itself."""

MAX_HANDLERS = 4096

HIGH_WATER = 1 << 20
"""Bytes of replies that wait for a client before no more of its requests are taken."""

LARGE = 64 << 10
"""Bytes of a reply that is not kept for the end of the turn."""

MAX_REPLIES = 256
"""In one frame, each smaller than LARGE."""

_OK = int(Status.OK)


class ClientConnection(asyncio.Protocol):
    """One client."""

    def __init__(self, sources: Sources, connections: set[ClientConnection]):
        self._sources = sources
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter(frames.MAX_REQUEST)
        self._later: deque[bytes] = deque()
        """What came behind `_frames`, which are behind `_requests`."""
        self._frames: Iterator[bytes] = iter(())
        self._requests: Iterator[AnyRequest] = iter(())
        self._calls: dict[int, Call] = {}
        self._handlers: list[str] = []
        self._replies: list[Reply] = []
        self._in_turn = self._scheduled = self._flushing = self._choked = self._is_paused = False
        # Bound once, for every call needs them.
        self._get_at_once, self._execute, self._on_end = sources.get_at_once, sources.execute, self._ended
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
        self._let_go()
        self._requests, self._frames = iter(()), iter(())
        self._later.clear()
        for call in tuple(self._calls.values()):
            self._give_up(call)
        self._calls.clear()
        self._sources.forget(self)

    def data_received(self, data: bytes) -> None:
        """More requests."""
        self._later.append(data)
        if not (self._scheduled or self._choked):
            self._turn()
        elif len(self._later) > 1 and not self._is_paused and self.transport is not None:
            self._is_paused = True
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """It does not read."""
        self._choked = True

    def resume_writing(self) -> None:
        """It reads again."""
        if self.transport is not None:
            self._choked = False
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Take its requests, as many as it may have before the others have their turn; one write for their replies."""
        self._scheduled = False
        self._in_turn = True
        try:
            if not self._choked and self._take_requests(TURN):
                self._schedule()
        except MalformedFrame as error:
            self._drop(f"it sent a malformed frame: {error}")
        finally:
            self._in_turn = False
            self._flush()

    def _take_requests(self, left: int) -> bool:
        """Take so many at most; whether there may be more that can be taken."""
        get, replies, handlers = self._get_at_once, self._replies, len(self._handlers)
        while True:
            for request in islice(self._requests, left):
                left -= 1
                if (
                    type(request) is CacheGet  # the commonest call, on the shortest way
                    and request.handler < handlers
                    and get is not None
                    and (value := get(request.arguments[0])) is not None
                    and len(value) < LARGE
                ):
                    replies.append((request.number, _OK, value))
                elif type(request) is Cancel:
                    self._cancel(request.number)
                elif type(request) is Hello:
                    self._hello(request)
                elif request.handler >= len(self._handlers):
                    raise MalformedFrame(f"handler {request.handler} is not in its hello")
                else:
                    self._call(request)
                if self._choked:
                    return False
            if not left:
                return True
            if not self._next_frame():
                return False

    def _next_frame(self) -> bool:
        """Go on with the requests of the next one that is all here; False, and read on, when none is."""
        while True:
            for content in self._frames:
                self._requests = iter(frames.requests(content))
                return True
            if not self._later:
                break
            self._frames = self._splitter.split(self._later.popleft())
        if self._is_paused and self.transport is not None:
            self._is_paused = False
            self.transport.resume_reading()
        return False

    def _call(self, request: AnyRequest) -> None:
        calls, number = self._calls, request.number
        if number in calls or len(calls) >= MAX_CALLS:
            raise MalformedFrame(f"call {number}: too many calls, or this number is taken")
        handler = self._handlers[request.handler]
        call = Call(self, number, request.op, handler, request.deadline, request.arguments, self._on_end)
        calls[number] = call
        try:
            self._execute(call)
        except Exception as error:
            log.event(logger, logging.ERROR, "internal error in a call", handler=handler, exc_info=error)
            call.fail(CallFailed("internal error of the data source process"))

    def _cancel(self, number: int) -> None:
        call = self._calls.pop(number, None)
        if call is not None:
            self._give_up(call)

    def _hello(self, request: Hello) -> None:
        number, (version, handlers) = request.number, request.arguments
        if version == frames.VERSION and 0 < len(handlers) <= MAX_HANDLERS and not self._handlers:
            self._handlers = handlers
            self._reply(number, _OK, frames.encode(frames.VERSION))
            return
        text = f"the proxy speaks version {frames.VERSION}; say hello once, with at least one handler"
        self._reply(number, Status.REFUSED, text.encode())
        self._flush()
        if (transport := self._let_go()) is not None:
            transport.close()

    def _ended(self, call: Call, status: Status, payload: bytes) -> None:
        """A call has its answer."""
        del self._calls[call.number]
        self._reply(call.number, status, payload)

    def _reply(self, number: int, status: int, payload: bytes) -> None:
        """Send it with the others of this turn of the loop; a large one at once."""
        if len(payload) > frames.MAX_RESULT:
            status = Status.FAILED
            payload = f"the answer of {len(payload)} bytes is larger than {frames.MAX_REPLY >> 20} MiB".encode()
        self._replies.append((number, status, payload))
        if len(payload) >= LARGE or len(self._replies) >= MAX_REPLIES:
            self._flush()
        elif not (self._in_turn or self._flushing):
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One frame for all."""
        self._flushing = False
        if self._replies and self.transport is not None:
            frames.write(self.transport.write, frames.encode(self._replies))
        self._replies.clear()

    def _give_up(self, call: Call) -> None:
        call.give_up()
        self._sources.cancel(call)

    def _drop(self, reason: str) -> None:
        log.event(logger, logging.ERROR, "connection to the data source process dropped", reason=reason)
        if (transport := self._let_go()) is not None:
            transport.abort()

    def _let_go(self) -> asyncio.Transport | None:
        """Take no more requests; its transport, to be ended."""
        transport, self.transport = self.transport, None
        self._choked = True
        return transport
