"""The suite of durable streams on Kafka: a real broker, with each of the client libraries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

from atmo_farm.errors import PublishError
from atmo_farm.streams.base import Output, Stream
from atmo_farm.streams.kafka import kafka_python_producer, librdkafka_producer
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.stream import KafkaStream
from atmo_farm.streams.memory import Delivery
from tests.contract.test_durable_streams import (
    ConsumingSuite,
    DurableSuite,
    MakeWorld,
    World,
    in_world,
    publish,
    settling,
)
from tests.kafka import new_name, read_all
from tests.servers.kafka import KafkaServer
from tests.streams import Events, Handled

SESSION_S = 1.5
"""A member asks three times within it how its group is doing."""
PARTITIONS = {"in.a": 1, "in.two": 2, "out.a": 1, "dead.a": 1}


class KafkaWorld:
    """The run's broker with the suite's topics. Who opens a stream is a static member; it gets the id of one that has
    ended, as a process gets its predecessor's."""

    def __init__(self, server: KafkaServer, driver: str, transactional: bool):
        self._server = server
        self._driver = driver
        self._transactional = transactional
        self._admin = KafkaAdminClient(bootstrap_servers=server.address())
        self._producer = KafkaProducer(bootstrap_servers=server.address())
        self._streams: list[KafkaStream] = []
        self._group = new_name("suite")
        self._published = 0
        self._make(*PARTITIONS)

    async def stream(
        self,
        subject: str = "in.a",
        *,
        durable: str = "worker",
        ack_wait_s: float = 30.0,
        window: int = 256,
    ) -> KafkaStream:
        living = [stream for stream in self._streams if not stream._ended]
        number = len(living)
        transactional_id = f"{self._group}.{number}" if self._transactional else ""
        membership = Membership(f"{self._group}.{durable}", f"id.{number}", "earliest", SESSION_S, transactional_id)
        stream = KafkaStream(
            self._server.connection(driver=self._driver),
            subject,
            membership=membership,
            client_id="test",
            events=Events(),
            max_in_flight=window,
            ordered=False,
        )
        self._streams.append(stream)
        await stream.open()
        return stream

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        pairs = [(name, value.encode()) for name, value in (headers or {}).items()]
        partition = self._published % PARTITIONS[subject]
        self._published += 1
        if PARTITIONS[subject] == 2:
            async with asyncio.timeout(10):
                while [len(stream._partitions._ours) for stream in self._streams] != [1, 1]:
                    await asyncio.sleep(0.01)
        self._producer.send(subject, data, headers=pairs, partition=partition).get(10)

    async def kept(self, subject: str) -> list[Delivery]:
        records = await asyncio.to_thread(read_all, self._server, subject)
        return [
            Delivery(subject, one.value or b"", {name: value.decode() for name, value in one.headers.items()}, "")
            for one in records
        ]

    async def vanish(self, stream: Stream) -> None:
        assert isinstance(stream, KafkaStream)
        stream._owner._clients.finish = lambda: None  # type: ignore[method-assign]
        await stream.close()

    async def break_off(self) -> None:
        self._admin.delete_topics(["out.a", "dead.a"])

    async def come_back(self) -> None:
        self._make("out.a", "dead.a")

    async def close(self) -> None:
        for stream in self._streams:
            await stream.close()
        self._admin.delete_topics(list(PARTITIONS))
        self._producer.close()
        self._admin.close()

    def _make(self, *topics: str) -> None:
        self._admin.create_topics([NewTopic(topic, PARTITIONS[topic], 1) for topic in topics])


class _OnKafka:
    """A member has a partition until it has left, so what it did not hand over waits for that."""

    transactional = False

    @pytest.fixture(params=["kafka-python", "librdkafka"])
    def make_world(
        self, request: pytest.FixtureRequest, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
    ) -> MakeWorld:
        for library in (kafka_python_producer, librdkafka_producer):
            monkeypatch.setattr(library, "TOPIC_TIMEOUT_S", 0.3)
        monkeypatch.setattr(kafka_python_producer, "TOPIC_AGAIN_S", 0.1)

        @contextlib.asynccontextmanager
        async def world() -> AsyncIterator[KafkaWorld]:
            made = KafkaWorld(kafka_server, request.param, self.transactional)
            try:
                yield made
            finally:
                await made.close()

        return world

    @in_world
    async def test_stop_gives_back_what_was_not_handed_over(self, world: World) -> None:
        """To who comes when it has left; what the handler had in hand it could settle until then."""
        payloads = await publish(world, 10)
        leaving, shut = await world.stream(), Handled(shut=True)
        await leaving.consume(shut)
        await shut.payloads(1)
        stop = asyncio.ensure_future(leaving.stop())
        await asyncio.sleep(0.05)
        shut.open()
        await stop
        leaving.ack(shut.messages[0])
        await leaving.close()
        staying, others = await world.stream(), Handled()
        await staying.consume(settling(staying, others))
        assert await others.payloads(9) == payloads[1:]
        assert [message.data for message in shut.messages] == payloads[:1] and leaving.pending() == 0


class TestKafkaStream(_OnKafka, DurableSuite):
    """A handler's stream as it is by default."""

    @in_world
    async def test_a_broker_that_takes_nothing(self, world: World) -> None:
        """Topics that are gone: outputs and dead letters fail, and go again, each once, a moment after the topics are
        back; the message is still the stream's to settle. (A broker that is gone is waited for.)"""
        await world.publish("in.a", b"hi")
        stream, handled = await world.stream(), Handled()
        await stream.consume(handled)
        await handled.payloads(1)
        output, letter = Output("out.a", b"o", {}, handled.messages[0], "id.o"), Output("dead.a", b"d", {}, id="id.d")
        await world.break_off()
        for send in (lambda: stream.publish(output), lambda: stream.bury(letter)):
            with pytest.raises(PublishError) as caught:
                await send()
            assert caught.value.transient
        await world.come_back()
        await _until_taken(lambda: stream.publish(output))
        await _until_taken(lambda: stream.bury(letter))
        stream.ack(handled.messages[0])
        assert [delivery.data for delivery in await world.kept("out.a")] == [b"o"]
        assert [delivery.data for delivery in await world.kept("dead.a")] == [b"d"]


class TestExactlyOnceStream(_OnKafka, ConsumingSuite):
    """Offsets go in transactions; tests/integration/test_kafka_exactly_once.py tells of outputs."""

    transactional = True


async def _until_taken(send: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                return await send()
            except PublishError as error:
                assert error.transient
