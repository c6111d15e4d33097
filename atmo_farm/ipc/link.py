"""One connection to the data-source proxy, as its client has it: the requests of each turn of the loop go out in one
frame, replies come in any order."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Protocol, cast

from atmo_farm import clock, log
from atmo_farm.errors import DataSourceError
from atmo_farm.ipc import frames
from atmo_farm.ipc.frames import Asked, MalformedFrame, Op, Splitter, Status
from atmo_farm.ipc.peer import peer_uid

logger = logging.getLogger("atmo_farm.ipc")

HIGH_WATER = 1 << 20
"""Bytes that wait for the proxy to read them before no more calls are sent."""

LARGE = 64 << 10
"""Bytes of a call that is not kept for the end of the turn."""

_OK, _UNKNOWN, _TRANSIENT = int(Status.OK), int(Status.UNKNOWN), int(Status.TRANSIENT)
_CACHE_GET, _CACHE_SET, _QUERY = Op.CACHE_GET, Op.CACHE_SET, Op.QUERY

Answer = asyncio.Future[bytes]
"""One call. Cancelling it gives the call up; its result is the answer, its exception a DataSourceError.

A plain future: one of a class of its own, that would notice its being cancelled, costs a task that awaits it more than
all else here. So the client looks for cancelled ones by itself.
"""


class Client(Protocol):
    """What a connection tells its client."""

    def greeted(self, link: Link) -> None:
        """The proxy has accepted us."""

    def lost(self) -> None:
        """The connection that was accepted is gone, whoever ended it."""

    def failed(self, number: int, error: DataSourceError) -> None:
        """A call has ended without the answer."""

    def choked(self) -> None:
        """The proxy does not read."""

    def send_waiting(self) -> None:
        """There is room for more."""


class Link(asyncio.Protocol):
    """One connection, from its hello to its loss. `answers` and `writes` are its client's own."""

    def __init__(self, client: Client, handlers: list[str], answers: dict[int, Answer], writes: set[int]):
        self._client = client
        self._handlers = handlers
        self._answers = answers
        self._writes = writes
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter(frames.MAX_REPLY)
        self.requests: list[Asked] = []
        """To be sent at the end of this turn of the loop."""
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
        pop, writes = self._answers.pop, self._writes
        try:
            for content in self._splitter.split(data):
                for number, status, payload in frames.replies(content):
                    answer = pop(number, None)
                    if answer is None:
                        if not self.greeted_at:
                            self._greet(status, payload)
                        continue
                    if writes:
                        writes.discard(number)
                    if answer.done():  # cancelled
                        continue
                    if status == _OK:
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
        self._client.choked()

    def resume_writing(self) -> None:
        """It reads again."""
        self.choked = False
        self._client.send_waiting()

    def send(self, asked: Asked) -> None:
        """Send it with the others of this turn of the loop; a large one at once."""
        requests = self.requests
        if not requests:
            self._loop.call_soon(self._flush)
        requests.append(asked)
        if asked[0] is not _CACHE_GET and _size(asked) >= LARGE:
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
        """One frame for all, unless that is too long, or one of them cannot be sent."""
        requests, self.requests = self.requests, []
        if not requests or self._transport is None:
            return
        try:
            content = frames.encode(requests)
        except Exception:
            content = b""
        if content and (
            len(content) <= frames.MAX_BATCH or (len(requests) == 1 and len(content) <= frames.MAX_REQUEST)
        ):
            frames.write(self._transport.write, content)
        elif len(requests) > 1:
            for each in requests:
                self.requests = [each]
                self._flush()
        else:
            text = f"{len(content)} bytes are more than a call may carry" if content else "it cannot be sent"
            self._client.failed(requests[0][1], DataSourceError(text))


def _size(asked: Asked) -> int:
    """Bytes of the values in a request, about."""
    op, _, _, _, arguments = asked
    if op is _CACHE_SET:
        return len(cast(bytes, arguments[1]))
    return sum(map(len, cast(list[bytes], arguments[1]))) if op is _QUERY else 0


def _failure(status: int, payload: bytes) -> DataSourceError:
    text = payload.decode("utf-8", "replace")
    return DataSourceError(text, transient=status == _TRANSIENT, unknown=status == _UNKNOWN)
