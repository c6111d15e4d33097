"""What every durable stream promises: one suite, passed by the memory twin and by brokers on real servers.

A suite's `world` is the broker seen from outside. It keeps what is published on `in.>`, `out.>` and `dead.>`, and its
streams of one `durable` share one consumer. `DurableSuite` is for all, in two parts, for where outputs are written only
with what they come of; `RedeliverySuite` for those of which `redelivers` holds, which count deliveries and give a
message back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import pytest

from atmo_farm import clock
from atmo_farm.errors import PublishError
from atmo_farm.streams.base import Message, Output, Stream
from atmo_farm.streams.memory import Delivery, MemoryBroker
from atmo_farm.streams.memory_durable import DurableMemoryStream, MemoryConsumer, MemoryLog
from tests.streams import Handled, run

MAX_PAYLOAD = 1 << 20
SHORT_S = 0.5
"""An ack wait that a test can wait for."""


class World(Protocol):
    """A broker that keeps messages, with other clients. Streams that it opened it closes in the end."""

    async def stream(
        self, subject: str = "in.a", *, durable: str = "worker", ack_wait_s: float = 30.0, window: int = 256
    ) -> Stream:
        """A stream that is open and does not consume yet. At most `window` messages of its durable are out; ack wait
        and window are those of the durable, so the same for all that share it."""

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """The broker keeps it when this returns."""

    async def kept(self, subject: str) -> list[Delivery]:
        """All that the broker keeps on exactly this subject, oldest first."""

    async def vanish(self, stream: Stream) -> None:
        """As if the stream's process was killed: from now on the broker hears nothing of it."""

    async def break_off(self) -> None:
        """The broker takes nothing more: publishing fails, and may go again later."""

    async def come_back(self) -> None:
        """It does again, and has what it kept. Returns when the streams can publish."""


MakeWorld = Callable[[], AbstractAsyncContextManager[World]]


def in_world(test: Callable[[Any, Any], Awaitable[None]]) -> Callable[[Any, MakeWorld], None]:
    """Make a test of a coroutine with a world of its own."""

    @functools.wraps(test)
    def run_it(self: Any, make_world: MakeWorld) -> None:
        async def body() -> None:
            async with make_world() as world:
                await test(self, world)

        run(body())

    del run_it.__wrapped__  # else pytest asks for a fixture `world`
    return run_it


async def publish(world: World, count: int, subject: str = "in.a") -> list[bytes]:
    """So many different messages; returns their payloads."""
    payloads = [b"%d" % number for number in range(count)]
    for data in payloads:
        await world.publish(subject, data)
    return payloads


async def nothing_comes(handled: Handled, ack_wait_s: float = SHORT_S) -> None:
    """Wait longer than the ack wait; no further message has come meanwhile."""
    before = len(handled.messages)
    await asyncio.sleep(2 * ack_wait_s)
    assert [message.data for message in handled.messages[before:]] == []


def settling(stream: Stream, handled: Handled) -> Callable[[Message], Awaitable[None]]:
    """A `Handle` that acknowledges each message at once."""

    async def handle(message: Message) -> None:
        await handled(message)
        stream.ack(message)

    return handle


class ConsumingSuite:
    """What messages do; a subclass gives the fixture `make_world`."""

    @in_world
    async def test_what_a_message_is(self, world: World) -> None:
        """Payload, subject and headers as they were published; a number and an id that no other message has."""
        await world.publish("in.a", b"1", {"X-One": "1"})
        await world.publish("in.a", b"")
        stream, handled = await world.stream(), Handled()
        assert stream.durable
        await stream.consume(handled)
        assert await handled.payloads(2) == [b"1", b""]
        first, second = handled.messages
        assert (first.subject, first.headers["x-one"], first.attempt) == ("in.a", "1", 1)
        assert first.number and second.number and first.number != second.number
        assert first.id and second.id and first.id != second.id

    @in_world
    async def test_unsettled_it_comes_again(self, world: World) -> None:
        """What a killed process had in hand comes again, with the same number and id; what it settled does not: without
        a gap, where messages do not come again one by one."""
        payloads = await publish(world, 4)
        stream, handled = await world.stream(ack_wait_s=SHORT_S), Handled()
        await stream.consume(handled)
        await handled.payloads(4)
        stream.ack(handled.messages[settled := 1 if stream.redelivers else 0])
        await asyncio.sleep(0.1)  # the ack is on its way
        await world.vanish(stream)
        again = Handled()
        await (await world.stream(ack_wait_s=SHORT_S)).consume(again)
        await again.until(lambda: len({message.data for message in again.messages}) >= 3)
        assert {message.data for message in again.messages} == {*payloads} - {payloads[settled]}
        known = {message.data: (message.number, message.id) for message in handled.messages}
        assert all(known[message.data] == (message.number, message.id) for message in again.messages)

    @in_world
    async def test_settled_it_never_comes_again(self, world: World) -> None:
        """Acknowledged or terminated, to whoever asks and however the process ended."""
        await publish(world, 3)
        stream, handled = await world.stream(ack_wait_s=SHORT_S), Handled()
        await stream.consume(handled)
        await handled.payloads(3)
        for message in handled.messages[:2]:
            stream.ack(message)
        stream.terminate(handled.messages[2])
        await stream.stop()
        await stream.close()
        again = Handled()
        await (await world.stream(ack_wait_s=SHORT_S)).consume(again)
        await nothing_comes(again)

    @in_world
    async def test_work_that_takes_longer_than_the_ack_wait(self, world: World) -> None:
        """While a process has it in hand it goes to nobody else, and the settlement counts."""
        await publish(world, 2)
        stream, handled = await world.stream(ack_wait_s=SHORT_S), Handled()
        await stream.consume(handled)
        await handled.payloads(2)
        await (await world.stream(ack_wait_s=SHORT_S)).consume(handled)
        await nothing_comes(handled, 1.5 * SHORT_S)
        for message in handled.messages:
            stream.ack(message)
        await nothing_comes(handled)

    @in_world
    async def test_two_share(self, world: World) -> None:
        """Each message goes to one of them, and each gets some."""
        members = [Handled(), Handled()]
        for member in members:
            stream = await world.stream("in.two")
            await stream.consume(settling(stream, member))
        payloads = await publish(world, 200, "in.two")
        async with asyncio.timeout(10):
            while sum(len(member.messages) for member in members) < len(payloads):
                await asyncio.sleep(0.005)
        assert sorted(message.data for member in members for message in member.messages) == sorted(payloads)
        assert all(member.messages for member in members)

    @in_world
    async def test_paused(self, world: World) -> None:
        """From the beginning or later, any number of times: nothing begins, what is in hand can be settled, and the
        broker keeps the rest."""
        stream, handled = await world.stream(ack_wait_s=SHORT_S), Handled()
        await stream.pause()
        await stream.consume(handled)
        await publish(world, 2)
        await nothing_comes(handled)
        await stream.resume()
        await stream.resume()
        assert await handled.payloads(2) == [b"0", b"1"]
        await stream.pause()
        await stream.pause()
        await world.publish("in.a", b"2")
        for message in handled.messages:
            stream.ack(message)
        assert stream.pending() == 0
        for _ in range(3):  # what comes last holds
            await stream.resume()
            await stream.pause()
        await nothing_comes(handled)
        await stream.resume()
        assert await handled.payloads(3) == [b"0", b"1", b"2"]
        stream.ack(handled.messages[2])
        await stream.pause()
        await stream.stop()
        await stream.close()

    @in_world
    async def test_two_durables(self, world: World) -> None:
        """Each of them gets all, what was published before it was there too."""
        payloads = await publish(world, 5)
        for durable in ("one", "two"):
            handled = Handled()
            await (await world.stream(durable=durable)).consume(handled)
            assert await handled.payloads(5) == payloads

    @in_world
    async def test_the_order_of_one_consumer(self, world: World) -> None:
        """Alone, and nothing given back: as they were published."""
        payloads = await publish(world, 500)
        stream, handled = await world.stream(), Handled()
        await stream.consume(settling(stream, handled))
        assert await handled.payloads(500) == payloads

    @in_world
    async def test_the_window(self, world: World) -> None:
        """So many are out and no more; each that is settled makes room for one."""
        payloads = await publish(world, 6)
        stream, handled = await world.stream(window=3, ack_wait_s=5.0), Handled()
        await stream.consume(handled)
        await handled.payloads(3)
        await nothing_comes(handled, 0.1)
        stream.ack(handled.messages[0])
        await handled.payloads(4)
        await nothing_comes(handled, 0.1)
        stream.terminate(handled.messages[1])
        assert await handled.payloads(5) == payloads[:5]

    @in_world
    async def test_stop_gives_back_what_was_not_handed_over(self, world: World) -> None:
        """At once, to whoever asks; what the handler has in hand stays with it and can be settled until the end."""
        payloads = await publish(world, 10)
        leaving, shut = await world.stream(), Handled(shut=True)
        await leaving.consume(shut)
        await shut.payloads(1)
        await asyncio.sleep(0.05)  # it may have received more
        stop = asyncio.ensure_future(leaving.stop())
        await asyncio.sleep(0.05)
        shut.open()
        await stop
        staying, others = await world.stream(), Handled()
        begun = clock.monotonic()
        await staying.consume(settling(staying, others))
        await others.payloads(9)
        assert clock.monotonic() - begun < 5
        assert sorted(message.data for message in others.messages) == payloads[1:]
        assert [message.data for message in shut.messages] == payloads[:1] and leaving.pending() == 0
        leaving.ack(shut.messages[0])
        await leaving.close()

    @in_world
    async def test_abandon_loses_nothing(self, world: World) -> None:
        """Nothing more is handed over, and none of it counts as lost."""
        await publish(world, 5)
        stream, shut = await world.stream(ack_wait_s=SHORT_S), Handled(shut=True)
        await stream.consume(shut)
        await shut.payloads(1)
        assert stream.abandon() == 0
        await stream.close()
        again = Handled()
        await (await world.stream(ack_wait_s=SHORT_S)).consume(again)
        await again.until(lambda: len({message.data for message in again.messages}) == 5)
        assert len(shut.messages) == 1

    @in_world
    async def test_a_life_in_any_order(self, world: World) -> None:
        """`stop` and `close` return after each other, twice, and without a `consume` before."""
        unused, used = await world.stream(), await world.stream()
        await unused.stop()
        await unused.close()
        await unused.close()
        await used.consume(Handled())
        await used.stop()
        await used.stop()
        await used.close()
        await used.stop()
        await used.close()
        assert used.pending() == 0


class PublishingSuite:
    """What outputs and dead letters do, which need no message to come of."""

    @in_world
    async def test_published_is_kept(self, world: World) -> None:
        """When `publish` is done the broker has it, payload and headers."""
        stream = await world.stream()
        await stream.publish(Output("out.a", b"hi", {"X-One": "1"}, id="id.1"))
        (delivery,) = await world.kept("out.a")
        headers = {name.lower(): value for name, value in delivery.headers.items()}
        assert (delivery.data, headers["x-one"]) == (b"hi", "1")

    @in_world
    async def test_many_outputs_at_once(self, world: World) -> None:
        """All are kept, though nobody waited for one before the next."""
        stream = await world.stream()
        published = (stream.publish(Output("out.a", b"%d" % number, {}, id=f"id.{number}")) for number in range(200))
        await asyncio.gather(*published)
        assert {delivery.data for delivery in await world.kept("out.a")} == {b"%d" % number for number in range(200)}

    @in_world
    async def test_an_output_that_cannot_be(self, world: World) -> None:
        """Too large, or on no legal subject: refused for good."""
        stream = await world.stream()
        for output in (Output("out.a", b"x" * 2 * MAX_PAYLOAD, {}, id="a"), Output("out.a b", b"", {}, id="b")):
            with pytest.raises(PublishError) as caught:
                await stream.publish(output)
            assert not caught.value.transient
        assert await world.kept("out.a") == []

    @in_world
    async def test_a_broker_that_takes_nothing(self, world: World) -> None:
        """Outputs and dead letters fail, and go again when it is back; the message is still the stream's to settle."""
        await world.publish("in.a", b"hi")
        stream, handled = await world.stream(), Handled()
        await stream.consume(handled)
        await handled.payloads(1)
        await world.break_off()
        output, letter = Output("out.a", b"o", {}, handled.messages[0], "id.o"), Output("dead.a", b"d", {}, id="id.d")
        with pytest.raises(PublishError) as caught:
            await stream.publish(output)
        assert caught.value.transient
        with pytest.raises(PublishError) as caught:
            await stream.bury(letter)
        assert caught.value.transient
        await world.come_back()
        await stream.publish(output)
        await stream.bury(letter)
        stream.ack(handled.messages[0])
        assert [delivery.data for delivery in await world.kept("out.a")] == [b"o"]
        assert [delivery.data for delivery in await world.kept("dead.a")] == [b"d"]

    @in_world
    async def test_a_dead_letter_is_kept(self, world: World) -> None:
        """As it is, never in an envelope, when `bury` returns."""
        stream = await world.stream()
        await stream.bury(Output("dead.a", b"\x00bad", {"Atmo-Dead-Cause": "trap"}, id="id.dead"))
        (delivery,) = await world.kept("dead.a")
        assert delivery.data == b"\x00bad"
        assert {name.lower(): value for name, value in delivery.headers.items()}["atmo-dead-cause"] == "trap"

    @in_world
    async def test_a_dead_letter_that_cannot_be(self, world: World) -> None:
        """Too large: refused for good, so that it can be kept elsewhere."""
        stream = await world.stream()
        with pytest.raises(PublishError) as caught:
            await stream.bury(Output("dead.a", b"x" * 2 * MAX_PAYLOAD, {}, id="id.dead"))
        assert not caught.value.transient


class DurableSuite(ConsumingSuite, PublishingSuite):
    """The tests of every durable stream."""


class RedeliverySuite(DurableSuite):
    """The tests of those that bring a message back by itself and count its deliveries."""

    @in_world
    async def test_attempts_are_counted(self, world: World) -> None:
        """By the broker: a killed process has had one too."""
        await world.publish("in.a", b"hi")
        for attempt in (1, 2, 3):
            stream, handled = await world.stream(ack_wait_s=SHORT_S), Handled()
            await stream.consume(handled)
            await handled.payloads(1)
            assert [message.attempt for message in handled.messages] == [attempt]
            await world.vanish(stream)

    @in_world
    async def test_paused_over_an_outage(self, world: World) -> None:
        """It is connected again and still takes nothing; paused during the outage as well."""
        stream, handled = await world.stream(ack_wait_s=SHORT_S), Handled()
        await stream.consume(handled)
        await stream.pause()
        await world.break_off()
        await stream.resume()
        await stream.pause()
        await world.come_back()
        await publish(world, 1)
        await nothing_comes(handled)
        await stream.resume()
        assert await handled.payloads(1) == [b"0"]
        stream.ack(handled.messages[0])

    @in_world
    async def test_given_back(self, world: World) -> None:
        """It comes again after its delay, not before, and its attempts are counted; others go on meanwhile."""
        stream, handled = await world.stream(), Handled()
        assert stream.redelivers
        await world.publish("in.a", b"back")
        times: list[float] = []

        async def handle(message: Message) -> None:
            if message.data == b"back":
                times.append(clock.monotonic())
                if message.attempt < 3:
                    stream.give_back(message, 0.3)
            await handled(message)

        await stream.consume(handle)
        await handled.payloads(1)
        payloads = await publish(world, 3)
        assert (await handled.payloads(4))[1:4] == payloads
        await handled.payloads(6)
        assert [message.attempt for message in handled.messages if message.data == b"back"] == [1, 2, 3]
        assert all(0.25 < later - earlier < 2 for earlier, later in itertools.pairwise(times))

    @in_world
    async def test_given_back_at_once(self, world: World) -> None:
        """Without a delay, also to another one."""
        await world.publish("in.a", b"hi")
        stream, handled = await world.stream(), Handled()
        await stream.consume(handled)
        await handled.payloads(1)
        await stream.stop()
        stream.give_back(handled.messages[0], 0.0)
        again = Handled()
        await (await world.stream()).consume(again)
        await again.payloads(1)
        assert again.messages[0].attempt == 2

    @in_world
    async def test_given_back_and_then_nothing(self, world: World) -> None:
        """Who gave it back cannot settle it: it is no longer in his hand."""
        await world.publish("in.a", b"hi")
        stream, handled = await world.stream(), Handled()
        await stream.consume(handled)
        await handled.payloads(1)
        stream.give_back(handled.messages[0], 0.2)
        stream.ack(handled.messages[0])
        await handled.payloads(2)

    @in_world
    async def test_published_twice_it_is_one(self, world: World) -> None:
        """The same id: a redelivered message's output and dead letter are kept once, whoever sends them."""
        streams = [await world.stream(), await world.stream()]
        for stream in streams:
            await stream.publish(Output("out.a", b"o", {}, id="id.o"))
            await stream.bury(Output("dead.a", b"d", {}, id="id.d"))
        await streams[0].publish(Output("out.a", b"p", {}, id="id.p"))
        assert [delivery.data for delivery in await world.kept("out.a")] == [b"o", b"p"]
        assert [delivery.data for delivery in await world.kept("dead.a")] == [b"d"]


class MemoryWorld:
    """A MemoryBroker with its logs."""

    def __init__(self) -> None:
        self._broker = MemoryBroker(MAX_PAYLOAD)
        self._logs = {name: MemoryLog(self._broker, f"{name}.>") for name in ("in", "out", "dead")}
        self._consumers: dict[str, MemoryConsumer] = {}

    async def stream(
        self, subject: str = "in.a", *, durable: str = "worker", ack_wait_s: float = 30.0, window: int = 256
    ) -> DurableMemoryStream:
        if durable not in self._consumers:
            self._consumers[durable] = self._logs["in"].consumer(subject, ack_wait_s=ack_wait_s, max_out=window)
        return DurableMemoryStream(self._broker, self._consumers[durable])

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._broker.publish(subject, data, headers)

    async def kept(self, subject: str) -> list[Delivery]:
        return [found for found in self._logs[subject.split(".")[0]].messages if found.subject == subject]

    async def vanish(self, stream: Stream) -> None:
        await stream.close()

    async def break_off(self) -> None:
        self._broker.refusing = True

    async def come_back(self) -> None:
        self._broker.refusing = False


class TestDurableMemoryStream(RedeliverySuite):
    """Without a server."""

    @pytest.fixture
    def make_world(self) -> MakeWorld:
        @contextlib.asynccontextmanager
        async def world() -> AsyncIterator[MemoryWorld]:
            yield MemoryWorld()

        return world
