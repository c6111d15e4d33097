"""A consumer that is paused and resumed while its broker comes and goes, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import nats

from atmo_farm.consumer.pausing import Pausing
from atmo_farm.ipc.arena import Arena, Field
from atmo_farm.streams.nats import NatsStream
from tests.servers.nats import NatsServer
from tests.streams import Events, Handled, nats_connection, run


def test_the_last_wish_holds(start_nats: Callable[[str], NatsServer]) -> None:
    """A resume that an outage keeps is given up for a pause, and what is resumed in an outage serves after it."""
    server, slot = start_nats(""), Arena().slot(0)

    async def until(paused: int) -> None:
        while slot[Field.PAUSED] != paused:
            await asyncio.sleep(0.01)

    async def body() -> None:
        events, handled, failures = Events(), Handled(), list[str]()
        stream = NatsStream(nats_connection(server.url), "work", group="all", client_name="test", events=events)
        await stream.open()
        pausing = Pausing(slot, "work", True, failures.append)
        pausing.want(False)
        pausing.want(True)
        await pausing.consume(stream, handled)
        assert slot[Field.PAUSED]
        server.stop()
        await events.until(lambda: any(told.startswith("waiting") for told in events.told))
        pausing.want(False)
        await asyncio.sleep(0.05)  # it asks in vain
        assert slot[Field.PAUSED]
        pausing.want(True)
        pausing.want(False)
        server.start()
        await until(0)
        client = await nats.connect(server.url)
        await client.publish("work", b"1")
        await client.flush()
        assert await handled.payloads(1) == [b"1"]
        for _ in range(20):
            pausing.want(True)
            pausing.want(False)
        pausing.want(True)
        await until(1)
        await client.publish("work", b"lost")
        await client.flush()
        pausing.want(False)
        await until(0)
        await client.publish("work", b"2")
        assert await handled.payloads(2) == [b"1", b"2"] and not failures
        await pausing.stop()
        await stream.stop()
        await stream.close()
        await client.close()

    run(body())
