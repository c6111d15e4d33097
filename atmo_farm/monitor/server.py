"""The control socket: requests and answers as lines of JSON (docs/control-protocol.md).

    client → monitor   {"id": 1, "verb": "status", "wait": "ready"}
    monitor → client   {"id": 1, "progress": {…}}                     any number of these
                       {"id": 1, "result": {…}}                       and exactly one of these two
                       {"id": 1, "error": "…", "exit": 4}

Each connection is its own task, and so is each request; a client that floods, never reads or never ends its line has
its own bounds. When all places are taken, the one that is idle for longest gives way, else one that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import select
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atmo_farm import clock, log
from atmo_farm.errors import AtmoFarmError
from atmo_farm.ipc.listener import Acceptor, SocketFile
from atmo_farm.ipc.peer import peer_uid
from atmo_farm.monitor.farm import Farm, Verb

logger = logging.getLogger("atmo_farm.monitor")

LINE_LIMIT = 64 << 10
"""Bytes of the longest request."""

LONGEST_ERROR = 4096
"""Characters of an error's text."""

CONNECTIONS = 64
REQUESTS = 16
"""Of one connection, at once."""

PATIENCE_S = 30.0
"""How long a client may leave unread what is sent to it."""

DEAF_S = 1.0
"""And for how long, when others want its place."""

LAST_WORDS_S = 0.5
"""What the end of the farm leaves for the last answers, and the loss of its place to a client."""

LOOK_S = 0.5
"""How often it is looked whether a client that only says no more is still there."""

USAGE = 2
BUSY = 5
INTERNAL = 70


class _ClientGoneError(Exception):
    """The client hung up, or does not read."""


class Server:
    """The listening socket and its connections."""

    def __init__(self, path: Path, farm: Farm, verbs: Mapping[str, Verb]):
        self._path = path
        self._farm = farm
        self._verbs = verbs
        self._acceptor: Acceptor | None = None
        self._file: SocketFile | None = None
        self._connections: dict[Connection, None] = {}
        """The one that was used last is the last."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Listen."""
        self._file = SocketFile(self._path)
        self._file.socket.listen()
        self._acceptor = Acceptor(self._file.socket, self._protocol)

    async def close(self) -> None:
        """Listen no more; requests that can end now have a moment for it."""
        if self._acceptor is not None:
            self._acceptor.close()
        running = {task for connection in self._connections for task in connection.requests}
        if running:
            await asyncio.wait(running, timeout=LAST_WORDS_S)
        for connection in tuple(self._connections):
            connection.end()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_WORDS_S)
        if self._file is not None:
            self._file.remove()
            self._file.socket.close()

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(LINE_LIMIT), self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        uid = peer_uid(writer.get_extra_info("socket"))
        connection = Connection(reader, writer, uid, self._farm, self._verbs)
        if uid not in (0, os.geteuid()):
            log.event(logger, logging.WARNING, "control client refused", uid=uid)
            await connection.refuse(f"user id {uid} may not control this farm")
            return
        if len(self._connections) >= CONNECTIONS:
            useless = sorted(self._connections, key=lambda other: bool(other.requests))
            idle = next((other for other in useless if not other.requests or other.is_deaf), None)
            if idle is None:
                await connection.refuse(f"{CONNECTIONS} clients are busy with this farm; try again")
                return
            self._connections.pop(idle)
            idle.end()
        self._connections[connection] = None
        try:
            await connection.run(lambda: self._used(connection))
        finally:
            self._connections.pop(connection, None)

    def _used(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections[connection] = self._connections.pop(connection)


class Connection:
    """One client."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        uid: int,
        farm: Farm,
        verbs: Mapping[str, Verb],
    ):
        self._reader = reader
        self._writer = writer
        self._uid = uid
        self._farm = farm
        self._verbs = verbs
        self._turn = asyncio.Lock()
        self._unread_since = math.inf
        self.requests: set[asyncio.Task[None]] = set()
        """Under way."""

    @property
    def is_deaf(self) -> bool:
        """Whether it does not read what is sent to it."""
        return clock.monotonic() - self._unread_since > DEAF_S

    async def run(self, used: Callable[[], None]) -> None:
        """Serve it until it goes."""
        try:
            while line := await self._line():
                used()
                await self._take(line)
            while self.requests and not self._hung_up():  # it only says no more, like `socat` at the end of its input
                await asyncio.wait(tuple(self.requests), timeout=LOOK_S)
            if not self._hung_up():
                self._writer.close()
                await asyncio.wait_for(self._writer.wait_closed(), PATIENCE_S)
        except (_ClientGoneError, OSError):
            pass
        finally:
            self.end()

    async def refuse(self, reason: str) -> None:
        """Say why it is not served."""
        with contextlib.suppress(_ClientGoneError):
            await self._answer(None, {"error": reason, "exit": BUSY})
        self._writer.close()

    def end(self) -> None:
        """Close, with what is already on its way, as far as it is read at once."""
        for task in self.requests:
            task.cancel()
        self._writer.close()
        asyncio.get_running_loop().call_later(LAST_WORDS_S, self._writer.transport.abort)

    async def _line(self) -> bytes:
        """The next request; empty when there is none any more."""
        try:
            return await self._reader.readline()
        except ValueError:
            await self._answer(None, {"error": f"a request of over {LINE_LIMIT} bytes", "exit": USAGE})
            return b""

    async def _take(self, line: bytes) -> None:
        """Begin a request, or say what is wrong with it."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        number = request.get("id") if isinstance(request, dict) else None
        if not isinstance(request, dict) or not isinstance(number, int | str):
            await self._answer(None, {"error": 'no request: write {"id": 1, "verb": "status"}', "exit": USAGE})
            return
        verb = self._verbs.get(str(request.get("verb")))
        if verb is None:
            known = ", ".join(self._verbs)
            await self._answer(number, {"error": f"unknown verb; this farm knows {known}", "exit": USAGE})
        elif len(self.requests) >= REQUESTS:
            await self._answer(number, {"error": f"over {REQUESTS} requests at once", "exit": BUSY})
        else:
            task = asyncio.ensure_future(self._perform(number, verb, {**request, "uid": self._uid}))
            self.requests.add(task)
            task.add_done_callback(self.requests.discard)

    async def _perform(self, number: int | str, verb: Verb, request: Mapping[str, Any]) -> None:
        async def progress(what: Mapping[str, Any]) -> None:
            await self._answer(number, {"progress": what})

        answer: dict[str, Any]
        try:
            try:
                answer = {"result": await verb(self._farm, request, progress)}
            except AtmoFarmError as error:
                answer = {"error": log.redacted(str(error), LONGEST_ERROR), "exit": error.exit_code}
            except _ClientGoneError:
                raise
            except Exception as error:
                log.event(logger, logging.ERROR, "internal error in a control verb", exc_info=error)
                text = log.redacted(f"internal error: {type(error).__name__}: {error}", LONGEST_ERROR)
                answer = {"error": text, "exit": INTERNAL}
            await self._answer(number, answer)
        except _ClientGoneError:
            self._writer.close()

    async def _answer(self, number: int | str | None, what: Mapping[str, Any]) -> None:
        """Send one line, in its turn and as the client reads; _ClientGoneError when it is gone or does not read."""
        line = json.dumps({"id": number, **what}).encode() + b"\n"
        async with self._turn:
            self._unread_since = clock.monotonic()
            try:
                await asyncio.wait_for(self._writer.drain(), PATIENCE_S)
            except OSError as error:  # a TimeoutError is one
                self._writer.transport.abort()
                raise _ClientGoneError from error
            self._unread_since = math.inf
            self._writer.write(line)

    def _hung_up(self) -> bool:
        """Whether the client is gone altogether, or we have closed."""
        if self._writer.is_closing():
            return True
        poller = select.poll()
        poller.register(self._writer.get_extra_info("socket").fileno(), 0)
        return any(events & select.POLLHUP for _, events in poller.poll(0))
