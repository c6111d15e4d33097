"""A KafkaStream whose outputs and offsets go in transactions, on a real broker: what goes into which, and when.

What becomes of them when processes are killed is for tests/system/test_system_kafka.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from atmo_farm.errors import PublishError
from atmo_farm.streams.base import Message, Output, Receipt
from atmo_farm.streams.kafka import drivers
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.stream import KafkaStream
from tests.farm import wait_for
from tests.kafka import committed, ends, new_name, new_topic, read_all, write
from tests.servers.kafka import KafkaServer
from tests.streams import Events, Handled, run

COUNT = 20


@pytest.fixture(params=["kafka-python", "librdkafka"], autouse=True)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All of it with every driver: here `auto` is the one at hand."""
    chosen = drivers.choose(request.param)
    monkeypatch.setattr(drivers, "choose", lambda _: chosen)
    return chosen.name


class World:
    """An input with numbered records, an output, and streams of one group."""

    def __init__(self, server: KafkaServer, partitions: int = 1, count: int = COUNT, **target: object):
        self.server = server
        self.topic = new_topic(server, partitions)
        self.target = new_topic(server, **target)
        self.group = new_name("group")
        self.count = count
        for number in range(partitions):
            write(server, self.topic, [b"%d-%d" % (number, one) for one in range(count)], number)

    async def stream(self, number: int = 0, **keys: Any) -> KafkaStream:
        """Open, with the ids of a worker."""
        name = f"{self.group}.{number}"
        membership = Membership(self.group, name, "earliest", 6.0, name)
        connection, events = self.server.connection(), Events()
        stream = KafkaStream(connection, self.topic, membership=membership, client_id="tests", events=events, **keys)
        await stream.open()
        return stream

    async def written(self) -> list[bytes | None]:
        """What readers see that wait for transactions, when all of them are decided for readers, too: the broker says
        so a moment after it has answered."""
        await asyncio.to_thread(
            wait_for, lambda: ends(self.server, self.target) == ends(self.server, self.target, True)
        )
        return [one.value for one in await asyncio.to_thread(read_all, self.server, self.target)]

    async def committed(self) -> dict[int, int]:
        """By partition."""
        return await asyncio.to_thread(committed, self.server, self.group, self.topic)

    async def until_committed(self, wanted: dict[int, int]) -> None:
        """These are, for others too."""
        await asyncio.to_thread(wait_for, lambda: committed(self.server, self.group, self.topic) == wanted)


class Working(Handled):
    """A handler that answers as a worker does: what its output became of decides whether the message is done."""

    def __init__(self, stream: KafkaStream, target: str, answers: Callable[[Message], bytes | None] = lambda m: m.data):
        super().__init__()
        self._stream = stream
        self._target = target
        self._answers = answers
        self.done: list[bytes] = []
        self.errors: dict[bytes, PublishError] = {}

    async def __call__(self, message: Message) -> None:
        await super().__call__(message)
        answer = self._answers(message)
        if answer is None:
            self.settled(message)
        else:
            self.send(message, answer)

    def send(self, message: Message, data: bytes) -> None:
        """Publish, and settle when that is heard of."""
        receipt = self._stream.publish(Output(self._target, data, {}, message, record_key=message.record_key))
        assert isinstance(receipt, Receipt)
        receipt.then(lambda error: self._heard(message, error))

    def settled(self, message: Message) -> None:
        """Done."""
        self._stream.ack(message)
        self.done.append(message.data)
        self._changed.set()

    def _heard(self, message: Message, error: Exception | None) -> None:
        if error is None:
            self.settled(message)
        else:
            assert isinstance(error, PublishError)
            self.errors[message.data] = error
            self._changed.set()

    async def until_done(self, count: int) -> None:
        """So many are."""
        await self.until(lambda: len(self.done) >= count)


def numbers(count: int = COUNT, partition: int = 0) -> list[bytes]:
    return [b"%d-%d" % (partition, one) for one in range(count)]


def test_each_output_is_there_once_with_its_offset(kafka_server: KafkaServer) -> None:
    """Also of messages without an output, and over the end of one process and the beginning of the next."""

    async def body() -> None:
        world = World(kafka_server, partitions=2)
        stream = await world.stream()
        odd = Working(stream, world.target, lambda m: m.data if int(m.data[2:]) % 2 else None)
        await stream.consume(odd)
        await odd.until_done(2 * COUNT)
        await world.until_committed({0: COUNT, 1: COUNT})
        await stream.stop()
        await stream.close()
        write(kafka_server, world.topic, [b"0-21"], 0)
        stream = await world.stream()
        last = Working(stream, world.target)
        await stream.consume(last)
        await last.until_done(1)
        await stream.stop()
        await stream.close()
        wanted = [one for number in (0, 1) for one in numbers(partition=number) if int(one[2:]) % 2] + [b"0-21"]
        assert sorted(await world.written(), key=str) == sorted(wanted, key=str)
        assert last.done == [b"0-21"]

    run(body())


def test_what_is_behind_one_that_is_tried_again_waits_for_it(kafka_server: KafkaServer) -> None:
    """Its output would be there twice, should the process die: so it is neither written nor told of. What is before it
    and what is in another partition is; and in its order all of it, once it ends."""

    async def body() -> None:
        world = World(kafka_server, partitions=2)
        held: list[Message] = []

        def answers(message: Message) -> bytes | None:
            return message.data

        stream = await world.stream(ordered=False)
        working = Working(stream, world.target, answers)

        async def handle(message: Message) -> None:
            if message.data == b"0-5":
                held.append(message)
                await Handled.__call__(working, message)
            else:
                await working(message)

        await stream.consume(handle)
        await working.until_done(5 + COUNT)
        await working.payloads(2 * COUNT)
        before = await world.written()
        assert sorted(before, key=str) == sorted(numbers(5) + numbers(partition=1), key=str)
        await world.until_committed({0: 5, 1: COUNT})
        working.send(held[0], b"at last")
        await working.until_done(2 * COUNT)
        after = [one for one in await world.written() if one not in numbers(partition=1)]
        assert after == [*numbers(5), b"at last", *numbers()[6:]]
        await stream.stop()
        await stream.close()
        await world.until_committed({0: COUNT, 1: COUNT})

    run(body())


def test_an_output_that_is_too_large_fails_alone(kafka_server: KafkaServer) -> None:
    """Out of many in one transaction; what it did not let through is written, and its message can end with another."""

    async def body() -> None:
        world = World(kafka_server, count=100, max_message_bytes=3000)
        large = {b"0-17", b"0-63"}
        stream = await world.stream()
        held = {}

        def answers(message: Message) -> bytes:
            if message.data in large:
                held[message.data] = message
                return b"x" * 5000
            return message.data

        working = Working(stream, world.target, answers)
        await stream.consume(working)
        await working.until(lambda: working.errors.keys() == {b"0-17"})
        error = working.errors[b"0-17"]
        assert not error.transient and "5000 bytes are more than" in str(error)
        working.send(held[b"0-17"], b"less")
        await working.until(lambda: working.errors.keys() == large)
        letter = Output(world.target, b"letter", {}, held[b"0-63"])
        await stream.bury(letter)
        stream.ack(held[b"0-63"])
        await working.until_done(99)
        wanted = [b"less" if one == b"0-17" else b"letter" if one == b"0-63" else one for one in numbers(100)]
        assert await world.written() == wanted
        await world.until_committed({0: 100})
        await stream.stop()
        await stream.close()

    run(body())


def test_an_output_that_is_too_large_is_found_beside_a_busy_partition(kafka_server: KafkaServer) -> None:
    """What another partition goes on giving is not always there first, or it would never be refused alone."""

    async def body() -> None:
        world = World(kafka_server, partitions=2, count=4000, max_message_bytes=3000)
        stream = await world.stream(max_in_flight=64)
        working = Working(stream, world.target, lambda m: b"x" * 5000 if m.data == b"1-10" else m.data)
        await stream.consume(working)
        await working.until(lambda: working.errors.keys() == {b"1-10"})
        assert len(working.done) < 2000
        await stream.stop()
        await stream.close()

    run(body(), patience_s=60)


def test_what_will_not_end_here_holds_nobody_up(kafka_server: KafkaServer) -> None:
    """A process that is to end lets a message go: what is behind it ends for nothing, at once, and comes again."""

    async def body() -> None:
        world = World(kafka_server)
        stream = await world.stream()
        held: list[Message] = []
        working = Working(stream, world.target)

        async def handle(message: Message) -> None:
            if message.data == b"0-5":
                held.append(message)
            else:
                await working(message)

        await stream.consume(handle)
        await working.until_done(5)
        await working.payloads(COUNT - 1)
        stream.give_back(held[0], 0.0)
        await working.until_done(COUNT - 1)
        working.send(working.messages[-1], b"for nothing")
        await working.until_done(COUNT)
        await stream.stop()
        await stream.close()
        await world.until_committed({0: 5})
        following = await world.stream()
        rest = Working(following, world.target)
        await following.consume(rest)
        await rest.until_done(COUNT - 5)
        assert await world.written() == numbers()
        await following.stop()
        await following.close()

    run(body())


def test_partitions_move_and_each_output_is_there_once(kafka_server: KafkaServer) -> None:
    """Members come and go while all of them work; nothing is written by who has a partition no more."""

    async def body() -> None:
        world = World(kafka_server, partitions=4, count=600)
        streams: list[KafkaStream] = []
        workings: list[Working] = []

        async def begin(number: int) -> None:
            stream = await world.stream(number, max_in_flight=32)
            working = Working(stream, world.target)
            streams.append(stream)
            workings.append(working)

            async def handle(message: Message) -> None:
                await asyncio.sleep(0.004)
                await working(message)

            await stream.consume(handle)

        async def end(number: int) -> None:
            await streams[number].stop()
            await streams[number].close()

        await begin(0)
        await workings[0].until_done(20)
        await begin(1)
        await workings[1].until_done(20)
        await begin(2)
        await workings[2].until_done(20)
        await end(1)

        async def all_of_it() -> None:
            while sum((await world.committed()).values()) < 2400:
                await asyncio.sleep(0.2)

        await asyncio.wait_for(all_of_it(), 60)
        await end(0)
        await end(2)
        written = await world.written()
        wanted = [one for number in range(4) for one in numbers(600, number)]
        assert sorted(written, key=str) == sorted(wanted, key=str)
        for number in range(4):
            assert [one for one in written if one and one.startswith(b"%d-" % number)] == numbers(600, number)

    run(body(), patience_s=90)
