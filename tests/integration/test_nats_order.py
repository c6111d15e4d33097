"""What the server sees in which order: a PONG must mean that everything before the PING is in force."""

from __future__ import annotations

import asyncio
from typing import Any

import nats

from atmo_farm.streams.nats_client import WireClient
from tests.servers.nats import NatsServer


def test_no_ping_overtakes_a_command(nats_server: NatsServer) -> None:
    """Subscribe, publish, unsubscribe, each with a flush after it: on the wire in this order."""

    async def body() -> list[bytes]:
        client = WireClient()
        await client.connect(nats_server.url)
        transport: Any = client._transport
        wire: list[bytes] = []
        write, writelines = transport.write, transport.writelines

        def noted_write(data: bytes) -> None:
            wire.append(bytes(data))
            write(data)

        def noted_writelines(lines: list[bytes]) -> None:
            wire.extend(bytes(line) for line in lines)
            writelines(lines)

        transport.write, transport.writelines = noted_write, noted_writelines
        subscription = await client.listen("order.a", "", lambda *_: None)
        await client.flush()
        client.send(b"PUB order.b 0\r\n\r\n")
        await client.flush()
        await subscription.unsubscribe()
        await client.flush()
        await client.close()
        return [line.split()[0] for line in wire]

    assert asyncio.run(body()) == [b"SUB", b"PING", b"PUB", b"PING", b"UNSUB", b"PING"]


def test_subscribers_of_a_group_take_turns_without_a_loss(nats_server: NatsServer) -> None:
    """100 handovers, new before old, while another client publishes without a pause: each message comes once."""

    async def body() -> tuple[int, int]:
        publisher = await nats.connect(nats_server.url)
        received: set[bytes] = set()
        repeated = 0
        published = 0
        done = False

        def take(_: bytes, __: bytes, ___: bytes, data: bytes) -> None:
            nonlocal repeated
            repeated += data in received
            received.add(data)

        async def subscriber() -> tuple[WireClient, Any]:
            client = WireClient()
            await client.connect(nats_server.url)
            subscription = await client.listen("order.turns", "group", take)
            await client.flush()
            return client, subscription

        async def publish() -> None:
            nonlocal published
            while not done:
                await publisher.publish("order.turns", b"%d" % published)
                published += 1
                await publisher.flush()

        old = await subscriber()
        publishing = asyncio.ensure_future(publish())
        for _ in range(100):
            new = await subscriber()
            await old[1].unsubscribe()
            await old[0].flush()
            await old[0].close()
            old = new
        done = True
        await publishing
        await publisher.flush()  # once more: its PING, nats-py's own, overtakes the last message
        await old[0].flush()
        await old[0].close()
        await publisher.close()
        return published - len(received), repeated

    assert asyncio.run(body()) == (0, 0)
