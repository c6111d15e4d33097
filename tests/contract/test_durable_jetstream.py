"""The suite of durable streams on JetStream: a real nats-server with a file store."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from atmo_farm.directive.model import DeadLetter, Handler, JetStream
from atmo_farm.streams.base import Stream
from atmo_farm.streams.jetstream import JetStreamStream
from atmo_farm.streams.memory import Delivery
from tests.contract.test_durable_streams import MakeWorld, RedeliverySuite
from tests.servers.nats import NatsServer
from tests.streams import Events, nats_connection


class JetStreamWorld:
    """A server of its own with the streams IN, OUT and DEAD."""

    def __init__(self, server: NatsServer, client: Client):
        self._server = server
        self._client = client
        self._streams: list[JetStreamStream] = []
        self.events = Events()

    async def stream(
        self, subject: str = "in.a", *, durable: str = "worker", ack_wait_s: float = 30.0, window: int = 256
    ) -> Stream:
        handler = Handler(
            "worker",
            "stream",
            "nats",
            subject,
            (),
            jetstream=JetStream(durable, window, ack_wait_s=ack_wait_s),
            dead_letter=DeadLetter("dead.a"),
        )
        stream = JetStreamStream(
            nats_connection(self._server.url), handler, whom="app.worker", client_name="test", events=self.events
        )
        self._streams.append(stream)
        await stream.open()
        return stream

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        await self._client.jetstream().publish(subject, data, headers=dict(headers) if headers else None)

    async def kept(self, subject: str) -> list[Delivery]:
        js = self._client.jetstream()
        name = subject.split(".")[0].upper()
        found = []
        for sequence in range(1, (await js.stream_info(name)).state.last_seq + 1):
            message = await js.get_msg(name, sequence)
            if message.subject == subject:
                found.append(Delivery(subject, message.data or b"", message.headers or {}, ""))
        return found

    async def vanish(self, stream: Stream) -> None:
        assert isinstance(stream, JetStreamStream)
        stream._client.abort()
        stream._binding.stop()

    async def break_off(self) -> None:
        self._server.stop()
        await self.events.until(lambda: any(told.startswith("waiting") for told in self.events.told))

    async def come_back(self) -> None:
        self._server.start()
        await self.events.until_told("connected")
        while not self._client.is_connected:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        for stream in self._streams:
            await stream.close()


async def api(client: Client, what: str, request: Any = None) -> Any:
    """JetStream's answer."""
    body = b"" if request is None else json.dumps(request).encode()
    return json.loads((await client.request(f"$JS.API.{what}", body, timeout=5)).data)


class TestJetStreamStream(RedeliverySuite):
    """On a real server."""

    @pytest.fixture
    def make_world(self, start_jetstream: Callable[[], NatsServer]) -> MakeWorld:
        @contextlib.asynccontextmanager
        async def world() -> AsyncIterator[JetStreamWorld]:
            server = start_jetstream()
            client = await nats.connect(server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
            for name in ("in", "out", "dead"):
                await client.jetstream().add_stream(name=name.upper(), subjects=[f"{name}.>"])
            made = JetStreamWorld(server, client)
            try:
                yield made
            finally:
                await made.close()
                await client.close()

        return world
