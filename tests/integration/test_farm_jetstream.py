"""Messages of JetStream through a real farm: what a stream keeps comes out into another, whoever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from tests.farm import Farm, nats_directive, wait_for, write_app, write_directive
from tests.servers.nats import NatsServer

DURABLE = """
resource: in.>
durable: work
jetstream: {ackWait: 2s}
workers: 2
steps: [{fn: hello}]
respondTo: {source: nats, resource: out.all}
"""


@asynccontextmanager
async def client_of(server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    try:
        yield client
    finally:
        await client.close()


def in_and_out(server: NatsServer) -> None:
    """The streams IN and OUT."""

    async def body() -> None:
        async with client_of(server) as client:
            for name in ("in", "out"):
                await client.jetstream().add_stream(name=name.upper(), subjects=[f"{name}.>"])

    asyncio.run(body())


async def outputs(client: Client, count: int) -> list[bytes]:
    """So many messages of OUT, once they are there."""
    js = client.jetstream()
    while (await js.stream_info("OUT")).state.messages < count:
        await asyncio.sleep(0.05)
    last = (await js.stream_info("OUT")).state.last_seq
    return [(await js.get_msg("OUT", number)).data or b"" for number in range(1, last + 1)]


async def settled(client: Client, count: int) -> Any:
    """The consumer's state, once so many are acknowledged and none is out."""
    js = client.jetstream()
    while True:
        info = await js.consumer_info("IN", "work")
        assert info.ack_floor is not None
        if info.num_ack_pending == 0 and info.ack_floor.stream_seq >= count:
            return info
        await asyncio.sleep(0.05)


@pytest.fixture
def server(start_jetstream: Callable[[], NatsServer]) -> NatsServer:
    started = start_jetstream()
    in_and_out(started)
    return started


def app_of(tmp_path: Path, server: NatsServer, *handlers: str) -> Path:
    return write_app(tmp_path / "app", nats_directive(server.url, *handlers), ("c", "hello"), ("c", "upper-case"))


def test_killed_consumers_lose_nothing(tmp_path: Path, server: NatsServer, amount: Callable[[int, int], int]) -> None:
    """kill -9 of consumers while they work: each message's output is there, and once."""
    count, kills = amount(2000, 50_000), amount(3, 20)

    async def body(farm: Farm) -> None:
        async with client_of(server) as client, asyncio.timeout(60):
            js = client.jetstream()

            async def feed() -> None:
                for number in range(count):
                    await js.publish("in.a", b"%d" % number)

            feeding = asyncio.ensure_future(feed())
            for _ in range(kills):
                await asyncio.sleep(0.3)
                consumers = farm.children()
                os.kill(consumers[0], signal.SIGKILL)
                wait_for(lambda gone=consumers[0]: gone not in farm.children())
            await feeding
            found = await outputs(client, count)
            assert sorted(found) == sorted(b"hello, %d" % number for number in range(count))
            await settled(client, count)

    with Farm(app_of(tmp_path, server, DURABLE)) as farm:
        asyncio.run(body(farm))


def test_the_server_restarts(tmp_path: Path, server: NatsServer) -> None:
    """It ends and comes back with its files: the farm goes on, nothing is lost or twice there."""
    count = 300

    async def body(farm: Farm) -> None:
        async with client_of(server) as client, asyncio.timeout(60):
            js = client.jetstream()
            for number in range(count):
                await js.publish("in.a", b"%d" % number)
            server.stop()
            await asyncio.sleep(0.3)
            server.start()
            begun = asyncio.get_running_loop().time()
            while not client.is_connected:
                await asyncio.sleep(0.01)
            await js.publish("in.a", b"after")
            found = await outputs(client, count + 1)
            assert asyncio.get_running_loop().time() - begun < 5
            assert sorted(found) == sorted(
                b"hello, %b" % (b"%d" % n if n < count else b"after") for n in range(count + 1)
            )
            await settled(client, count + 1)

    with Farm(app_of(tmp_path, server, DURABLE)) as farm:
        asyncio.run(body(farm))


ORDERED = """
resource: in.>
durable: work
jetstream: {{ackWait: 1s}}
maxInFlight: 16
timeout: {timeout}s
ordering: partition
steps: [{{fn: hello}}]
respondTo: {{source: nats, resource: out.all}}
"""


def test_order_over_reloads_and_a_kill(tmp_path: Path, server: NatsServer) -> None:
    """One process after the other serves an ordered handler: all outputs are there, once, in the stream's order."""
    count = 600
    app = app_of(tmp_path, server, ORDERED.format(timeout=30))

    async def body(farm: Farm) -> None:
        async with client_of(server) as client, asyncio.timeout(60):
            js = client.jetstream()

            async def feed() -> None:
                for number in range(count):
                    await js.publish("in.a", b"%d" % number)
                    await asyncio.sleep(0.003)

            feeding = asyncio.ensure_future(feed())
            for timeout in (31, 32):
                await asyncio.sleep(0.2)
                write_directive(app, nats_directive(server.url, ORDERED.format(timeout=timeout)))
                os.kill(farm.pid, signal.SIGHUP)
                await asyncio.to_thread(wait_for, lambda n=timeout - 30: len(farm.log(message="reload: in force")) >= n)
            os.kill(farm.children()[0], signal.SIGKILL)
            await feeding
            assert await outputs(client, count) == [b"hello, %d" % number for number in range(count)]
            await settled(client, count)

    with Farm(app) as farm:
        asyncio.run(body(farm))


def test_an_outage_uses_no_attempts_up(tmp_path: Path, server: NatsServer) -> None:
    """An ordered handler with few attempts over a broker that is away for longer: no dead letter, the order holds; and
    it ends without the broker, too."""
    count = 400
    app = app_of(tmp_path, server, ORDERED.format(timeout=30) + "retry: {attempts: 2, initialDelay: 10ms}\n")

    async def body() -> None:
        async with client_of(server) as client, asyncio.timeout(60):
            js = client.jetstream()
            for number in range(count):
                await js.publish("in.a", b"%d" % number)
            while (await js.stream_info("OUT")).state.messages < 20:
                await asyncio.sleep(0.005)
            server.kill()
            await asyncio.sleep(0.7)
            server.start()
            while not client.is_connected:
                await asyncio.sleep(0.01)
            assert await outputs(client, count) == [b"hello, %d" % number for number in range(count)]

    with Farm(app) as farm:
        asyncio.run(body())
        assert farm.log(message="message failed") == []
        server.kill()
        assert farm.stop() == 0


def test_no_stream_to_read(tmp_path: Path, server: NatsServer) -> None:
    """The log says which stream is missing, and the command that makes it; once it is there the farm is ready."""

    async def make() -> None:
        async with client_of(server) as client:
            await client.jetstream().add_stream(name="ORDERS", subjects=["orders.>"])

    app = app_of(tmp_path, server, DURABLE.replace("in.>", "orders.>"))
    farm = Farm(app).start()
    try:
        line = wait_for(lambda: [line for line in farm.log() if "nats stream add" in json.dumps(line)])[0]
        assert "nats stream add NAME --subjects 'orders.>'" in json.dumps(line)
        asyncio.run(make())
        farm.wait_notified("READY=1")
    finally:
        farm.__exit__()
