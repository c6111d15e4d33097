"""A server that speaks enough of Redis's protocol for a connection's greeting, and then what a test makes it say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import hiredis

from atmo_farm.directive.connections import RedisConnection

GREETING = (b"AUTH", b"SELECT", b"CLIENT", b"PING")

Script = Callable[["FakePeer", list[bytes]], None]


class FakePeer(asyncio.Protocol):
    """One connection; `script` gets every command behind the greeting, with this peer to answer by."""

    def __init__(self, server: FakeRedis):
        self._server = server
        self._reader = hiredis.Reader()
        self.commands: list[list[bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._server.peers.append(self)

    def data_received(self, data: bytes) -> None:
        self._server.reads += 1
        self._reader.feed(data)
        while command := self._reader.gets():
            if command[0] in self._server.greeting:
                self.say(self._server.greeting[command[0]])
            else:
                self.commands.append(command)
                self._server.script(self, command)

    def say(self, data: bytes) -> None:
        self.transport.write(data)


class FakeRedis:
    """`script` may be replaced at any time; `greeting` are the answers to a connection's first commands."""

    def __init__(self, script: Script):
        self.script = script
        self.greeting = dict.fromkeys(GREETING, b"+OK\r\n")
        self.peers: list[FakePeer] = []
        self.reads = 0
        self.port = 0

    def connection(self) -> RedisConnection:
        return RedisConnection(server_address=f"127.0.0.1:{self.port}")


def silent(_: FakePeer, __: list[bytes]) -> None:
    """A script that never answers."""


def saying(data: bytes) -> Script:
    """A script that answers every command with these bytes."""
    return lambda peer, _: peer.say(data)


@contextlib.asynccontextmanager
async def fake_redis(script: Script = silent) -> AsyncIterator[FakeRedis]:
    """One on a free loopback port."""
    fake = FakeRedis(script)
    server = await asyncio.get_running_loop().create_server(lambda: FakePeer(fake), "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        for peer in fake.peers:
            peer.transport.abort()
