"""Outputs that go to another broker, or another connection, than their messages come from: through a real farm."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from tests.farm import Farm, wait_for, write_app
from tests.kafka import committed, create_topic, new_name, new_topic, read_all, write
from tests.servers.kafka import KafkaServer
from tests.servers.nats import NatsServer

DRIVERS = ("kafka-python", "librdkafka")


@contextlib.asynccontextmanager
async def client_of(server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05)
    try:
        yield client
    finally:
        await client.close()


def directive(connections: str, handler: str) -> str:
    return (
        f"connections: {{{connections}}}\nhandlers:\n  - {{type: stream, name: h, steps: [{{fn: hello}}], {handler}}}\n"
    )


def of_kafka(server: KafkaServer, driver: str) -> str:
    return f"kafka: {{brokerAddress: '{server.address()}', driver: {driver}}}"


def of_nats(server: NatsServer) -> str:
    return f"nats: {{serverAddress: '{server.url}'}}"


@pytest.mark.parametrize("driver", DRIVERS)
def test_from_jetstream_to_kafka(
    tmp_path: Path, start_jetstream: Callable[[], NatsServer], kafka_server: KafkaServer, driver: str
) -> None:
    """A message is acknowledged after Kafka has its output, with the key and headers that `respondTo` says; while the
    topic is not there it is kept by the stream, and tried again."""
    server, topic = start_jetstream(), new_name()
    answer = f"respondTo: {{source: kafka, resource: {topic}, key: k, headers: {{Origin: shop}}}}"
    text = directive(
        f"{of_nats(server)}, {of_kafka(kafka_server, driver)}",
        f"source: nats, resource: in, durable: work, {answer}, retry: {{attempts: 100, maxDelay: 300ms}}",
    )

    async def body(farm: Farm) -> None:
        async with client_of(server) as client, asyncio.timeout(30):
            js = client.jetstream()
            await js.publish("in", b"one")
            await asyncio.to_thread(farm.wait_log, message="message will be tried again", cause="publish")
            info = await js.consumer_info("IN", "work")
            assert info.ack_floor is not None and info.ack_floor.stream_seq == 0
            create_topic(kafka_server, topic)
            await js.publish("in", b"two")
            while info.num_pending or info.num_ack_pending:
                await asyncio.sleep(0.05)
                info = await js.consumer_info("IN", "work")

    async def prepare() -> None:
        async with client_of(server) as client:
            await client.jetstream().add_stream(name="IN", subjects=["in"])

    asyncio.run(prepare())
    with Farm(write_app(tmp_path / "app", text, ("c", "hello"))) as farm:
        asyncio.run(body(farm))
        assert not farm.log(message="no known stream keeps the outputs")
    found = read_all(kafka_server, topic)
    assert sorted(one.value or b"" for one in found) == [b"hello, one", b"hello, two"]
    assert all((one.key, one.headers["Origin"]) == (b"k", b"shop") for one in found)


@pytest.mark.parametrize("driver", DRIVERS)
def test_from_core_nats_to_kafka(
    tmp_path: Path, nats_server: NatsServer, kafka_server: KafkaServer, driver: str
) -> None:
    """The topic has every output; the sender's reply subject gets none."""
    topic, subject = new_topic(kafka_server), new_name("in")
    text = directive(
        f"{of_nats(nats_server)}, {of_kafka(kafka_server, driver)}",
        f"source: nats, resource: {subject}, respondTo: {{source: kafka, resource: {topic}}}",
    )

    async def body() -> None:
        async with client_of(nats_server) as client:
            for number in range(100):
                await client.publish(subject, b"%d" % number, "nobody")
            await client.flush()

    with Farm(write_app(tmp_path / "app", text, ("c", "hello"))) as farm:
        asyncio.run(body())
        wait_for(lambda: len(read_all(kafka_server, topic)) == 100, otherwise=farm.tail)
        assert farm.stop() == 0
    assert {one.value for one in read_all(kafka_server, topic)} == {b"hello, %d" % number for number in range(100)}


@pytest.mark.parametrize("driver", DRIVERS)
def test_from_kafka_to_jetstream(
    tmp_path: Path, start_jetstream: Callable[[], NatsServer], kafka_server: KafkaServer, driver: str
) -> None:
    """In order and once, over an outage of NATS: offsets wait for the acknowledgements. The farm says what it waits
    for, and ends well while NATS is away."""
    server, topic = start_jetstream(), new_topic(kafka_server)
    group = f"group: {topic}, startAt: earliest"
    text = directive(
        f"{of_nats(server)}, {of_kafka(kafka_server, driver)}",
        f"source: kafka, resource: {topic}, {group}, respondTo: {{source: nats, resource: out}}",
    )

    async def outputs(count: int) -> list[bytes]:
        async with client_of(server) as client, asyncio.timeout(30):
            js = client.jetstream()
            while (await js.stream_info("OUT")).state.messages < count:
                await asyncio.sleep(0.05)
            return [(await js.get_msg("OUT", number)).data or b"" for number in range(1, count + 1)]

    async def prepare() -> None:
        async with client_of(server) as client:
            await client.jetstream().add_stream(name="OUT", subjects=["out"])

    asyncio.run(prepare())
    values = [b"%d" % number for number in range(150)]
    farm = Farm(write_app(tmp_path / "app", text, ("c", "hello")))
    with farm:
        write(kafka_server, topic, values[:50])
        asyncio.run(outputs(50))
        wait_for(lambda: committed(kafka_server, topic, topic) == {0: 50})
        server.stop()
        farm.wait_log(message="waiting for nats default")
        write(kafka_server, topic, values[50:100])
        server.start()
        asyncio.run(outputs(100))
        wait_for(lambda: committed(kafka_server, topic, topic) == {0: 100})
        server.stop()
        write(kafka_server, topic, values[100:])
        farm.wait_log(message="waiting for nats default")
        assert farm.stop() == 0
        assert committed(kafka_server, topic, topic) == {0: 100}
        server.start()
        farm.start()
        found = asyncio.run(outputs(150))
        assert found == [b"hello, " + value for value in values]


def test_from_one_kafka_to_another(
    tmp_path: Path, start_kafka: Callable[[], KafkaServer], kafka_server: KafkaServer
) -> None:
    """Each connection has its own client library; keys go along."""
    other = start_kafka()
    topic, target = new_topic(kafka_server), new_topic(other)
    here, there = (
        f"{{brokerAddress: '{one.address()}', driver: {name}}}"
        for one, name in zip((kafka_server, other), DRIVERS, strict=True)
    )
    text = directive(
        f"kafka: {{a: {here}, b: {there}}}",
        f"source: kafka, resource: {topic}, connection: a, startAt: earliest, "
        f"respondTo: {{resource: {target}, connection: b}}",
    )
    with Farm(write_app(tmp_path / "app", text, ("c", "hello"))) as farm:
        write(kafka_server, topic, [b"1", b"2"])
        wait_for(lambda: len(read_all(other, target)) == 2, otherwise=farm.tail)
        assert [one.value for one in read_all(other, target)] == [b"hello, 1", b"hello, 2"]
