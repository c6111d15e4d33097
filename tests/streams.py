"""What tests of streams share: a loop with patience, handlers that keep messages, ears for events, a scripted peer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from atmo_farm.directive.connections import NatsConnection
from atmo_farm.streams.base import Message, Output, Stream

PATIENCE_S = 30.0

INFO = (
    b'INFO {"server_id":"scripted","version":"2.11.0","proto":1,"headers":true,"max_payload":1048576,"client_id":1}\r\n'
)

ResultT = TypeVar("ResultT")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(body: Coroutine[Any, Any, ResultT], patience_s: float = PATIENCE_S) -> ResultT:
    """Run it on the farm's own kind of loop."""

    async def patiently() -> ResultT:
        async with asyncio.timeout(patience_s):
            return await body

    return uvloop.run(patiently())


def nats_connection(*addresses: str, **keys: Any) -> NatsConnection:
    """The connection `default`, as the Directive has it after its references are resolved."""
    return NatsConnection("default", addresses, **keys)


class Watched:
    """Something that changes; `until` waits for what a change brings."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when it holds; TimeoutError when it does not come."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


class Events(Watched):
    """`streams.base.StreamEvents`: what a stream told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        """`waiting: <reason>`, `connected`, `closed: <reason>`."""
        self.drops: list[int] = []

    def waiting(self, connection: str, reason: str) -> None:
        self.connection = connection
        self._tell(f"waiting: {reason}")

    def connected(self) -> None:
        self._tell("connected")

    def closed(self, reason: str) -> None:
        self._tell(f"closed: {reason}")

    def dropped(self, count: int) -> None:
        self.drops.append(count)
        self._changed.set()

    async def until_told(self, text: str, times: int = 1) -> None:
        """Return when this was told so many times."""
        await self.until(lambda: self.told.count(text) >= times)

    def _tell(self, text: str) -> None:
        self.told.append(text)
        self._changed.set()


class Handled(Watched):
    """A `Handle` that keeps its messages. While it is shut it does not return, so the stream waits with the next."""

    def __init__(self, *, shut: bool = False) -> None:
        super().__init__()
        self.messages: list[Message] = []
        self._open = asyncio.Event()
        if not shut:
            self._open.set()

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)
        self._changed.set()
        await self._open.wait()

    def open(self) -> None:
        """Take everything from now on."""
        self._open.set()

    async def payloads(self, count: int) -> list[bytes]:
        """The payloads, once there are so many."""
        await self.until(lambda: len(self.messages) >= count)
        return [message.data for message in self.messages]


def answering(stream: Stream) -> Callable[[Message], Coroutine[Any, Any, None]]:
    """A `Handle` that answers each message with its own payload."""

    async def handle(message: Message) -> None:
        await stream.publish(Output(message.reply, message.data, {}, message))

    return handle


class Peer(Watched):
    """One connection of a scripted server: what the client sent, and a way to send it anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        super().__init__()
        self._reader, self._writer = reader, writer
        self.lines: list[bytes] = []
        """Control lines and payload lines, without their ends."""
        self.answers_pings = True
        self.gone = asyncio.Event()
        """Set when the client has closed its end."""

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def hang_up(self) -> None:
        self._writer.transport.abort()

    def got(self, start: bytes) -> int:
        """How many lines begin so."""
        return sum(line.startswith(start) for line in self.lines)

    async def listen(self) -> None:
        self.send(INFO)
        while line := await self._reader.readline():
            self.lines.append(line.rstrip(b"\r\n"))
            if line.startswith(b"PING") and self.answers_pings:
                self.send(b"PONG\r\n")
            self._changed.set()


class ScriptedServer(Watched):
    """Speaks as much NATS as a connection needs, and whatever else a test makes it say."""

    def __init__(self) -> None:
        super().__init__()
        self.peers: list[Peer] = []
        self.serve_next: Serve | None = None
        """What the next connections meet instead of NATS."""
        self.url = ""

    async def peer(self, number: int) -> Peer:
        """The connection of this number, from 0, once it is there."""
        await self.until(lambda: len(self.peers) > number)
        return self.peers[number]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.serve_next is not None:
            await self.serve_next(reader, writer)
            return
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self._changed.set()
        with contextlib.suppress(ConnectionError):
            await peer.listen()
        peer.gone.set()
        writer.close()


@contextlib.asynccontextmanager
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    """One on a free loopback port."""
    scripted = ScriptedServer()
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()
        for peer in scripted.peers:
            peer.hang_up()
