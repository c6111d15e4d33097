"""What tests of JetStream share: streams of a handler on a real server, and the server's own view of things."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import nats
from nats.aio.client import Client

from atmo_farm.directive.model import DeadLetter, Handler, JetStream
from atmo_farm.streams.base import Message
from atmo_farm.streams.jetstream import JetStreamStream
from tests.servers.nats import NatsServer
from tests.streams import Events, nats_connection, run

HANDLER = Handler("worker", "stream", "nats", "in.a", (), dead_letter=DeadLetter("atmo.dead.app.worker"))


class Kit:
    """A server with the stream IN on `in.>`, a client of it, and the streams that a test opens."""

    def __init__(self, server: NatsServer, client: Client | None = None):
        self.server = server
        self.client = client or Client()
        self.js = self.client.jetstream()
        self.events = Events()
        self._streams: list[JetStreamStream] = []

    async def stream(
        self,
        *,
        ack_wait_s: float = 30.0,
        window: int = 256,
        ping_interval_s: float = 5.0,
        login: Any = None,
        jetstream: Any = None,
        **handler: Any,
    ) -> JetStreamStream:
        """Open; `handler` and `jetstream` are what differs from HANDLER."""
        settings = JetStream("work", window, ack_wait_s=ack_wait_s)
        keys: dict[str, Any] = {"jetstream": attrs.evolve(settings, **(jetstream or {})), **handler}
        stream = JetStreamStream(
            nats_connection(self.server.url, **(login or {})),
            attrs.evolve(HANDLER, **keys),
            whom="app.worker",
            client_name="test",
            events=self.events,
            ping_interval_s=ping_interval_s,
        )
        self._streams.append(stream)
        await stream.open()
        return stream

    async def publish(self, *payloads: bytes, subject: str = "in.a") -> None:
        for data in payloads:
            await self.js.publish(subject, data)

    async def info(self) -> Any:
        """The consumer as the server tells it."""
        return await self.api("CONSUMER.INFO.IN.work")

    async def api(self, what: str, request: Any = None) -> Any:
        """JetStream's answer."""
        body = b"" if request is None else json.dumps(request).encode()
        return json.loads((await self.client.request(f"$JS.API.{what}", body, timeout=5)).data)

    async def until_info(self, holds: Callable[[Any], bool]) -> Any:
        """The consumer's state, as soon as it is so."""
        while not holds(info := await self.info()):
            await asyncio.sleep(0.02)
        return info

    async def until_connected(self) -> None:
        """The client has found the server again."""
        while not self.client.is_connected:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        for stream in self._streams:
            await stream.close()


def in_kit(server: NatsServer, body: Callable[[Kit], Awaitable[None]], patience_s: float = 30.0) -> None:
    """Run it."""

    async def main() -> None:
        async with kit(server) as made:
            await body(made)

    run(main(), patience_s)


@asynccontextmanager
async def kit(server: NatsServer) -> AsyncIterator[Kit]:
    """With the stream IN."""
    client = await nats.connect(server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    made = Kit(server, client)
    try:
        await made.js.add_stream(name="IN", subjects=["in.>"])
        yield made
    finally:
        await made.close()
        await client.close()


def settling(
    stream: JetStreamStream, took: Callable[[Message], Awaitable[None]]
) -> Callable[[Message], Awaitable[None]]:
    """A `Handle` that acknowledges each message."""

    async def handle(message: Message) -> None:
        await took(message)
        stream.ack(message)

    return handle


def vanish(stream: JetStreamStream) -> None:
    """As if its process was killed."""
    stream._client.abort()
    stream._binding.stop()
