"""What every stream promises: one suite, passed by the memory stream and by NATS on a real server.

A suite's `world` is the broker seen from outside: it publishes, requests and listens as any other client does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from atmo_farm.errors import PublishError
from atmo_farm.streams import grav
from atmo_farm.streams.base import Message, Output, Stream
from atmo_farm.streams.memory import Delivery, MemoryBroker, MemoryStream
from atmo_farm.streams.nats import NatsStream
from tests.servers.nats import NatsServer, max_payload
from tests.streams import Events, Handled, Watched, answering, nats_connection, run

MAX_PAYLOAD = 1 << 20
ALL_BYTES = bytes(range(256))
MIB = b"x" * (1 << 20)


class Inbox(Watched):
    """What came on a subject that somebody else listens to."""

    def __init__(self) -> None:
        super().__init__()
        self.deliveries: list[Delivery] = []

    def receive(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._changed.set()

    async def next(self) -> Delivery:
        """The oldest that was not looked at; waits for it."""
        await self.until(lambda: bool(self.deliveries))
        return self.deliveries.pop(0)


class World(Protocol):
    """A broker with other clients. Streams that it opened it closes in the end."""

    events: Events

    async def stream(
        self,
        subject: str,
        *,
        group: str | None = "group",
        envelope: Literal["auto", "raw", "grav"] = "auto",
        **keys: Any,
    ) -> Stream:
        """A stream that is open and does not consume yet."""

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """The broker has taken it when this returns."""

    async def listen(self, subject: str) -> Inbox:
        """The subscription stands when this returns."""

    async def break_off(self) -> None:
        """The broker takes nothing more."""

    async def come_back(self) -> None:
        """It does again."""


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


async def request(world: World, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> Delivery:
    """The answer to a message with a reply subject of its own."""
    inbox = await world.listen("some.inbox.1")
    await world.publish(subject, data, headers, "some.inbox.1")
    return await inbox.next()


class StreamSuite:
    """The tests; a subclass gives the fixture `make_world`."""

    @in_world
    async def test_raw_payloads(self, world: World) -> None:
        """The same bytes in and out, none and many; JSON is a payload like any other."""
        stream, handled = await world.stream("raw"), Handled()
        await stream.consume(handled)
        out = await world.listen("out")
        payloads = [b"", b"a", ALL_BYTES, b'{"msg_type": "mine"}', b"\r\nPING\r\n", b"x" * 200_000, b"last"]
        for data in payloads:
            await world.publish("raw", data)
        assert await handled.payloads(len(payloads)) == payloads
        for message in handled.messages:
            assert (message.subject, message.reply, message.headers, message.envelope) == ("raw", "", {}, "")
            await stream.publish(Output("out", message.data, {}, message))
        assert [(await out.next()).data for _ in payloads] == payloads

    @in_world
    async def test_paused(self, world: World) -> None:
        """From the beginning or later, any number of times: nothing comes but what had been received; what is published
        meanwhile goes to another member, or is lost."""
        stream, handled = await world.stream("work"), Handled()
        beside = await world.listen("work")
        await stream.pause()
        await stream.consume(handled)
        await world.publish("work", b"lost")
        await beside.next()
        await stream.resume()
        await stream.resume()
        await world.publish("work", b"1")
        await handled.payloads(1)
        await stream.pause()
        await stream.pause()
        other, others = await world.stream("work"), Handled()
        await other.consume(others)
        for number in range(10):
            await world.publish("work", b"%d" % number)
        assert await others.payloads(10) == [b"%d" % number for number in range(10)]
        await other.stop()
        await stream.resume()
        await world.publish("work", b"2")
        assert await handled.payloads(2) == [b"1", b"2"]
        await stream.pause()
        await stream.stop()

    @in_world
    async def test_the_reply_subject(self, world: World) -> None:
        """An answer goes there, and the message's own subject gets nothing."""
        stream, handled = await world.stream("echo"), Handled()
        await stream.consume(handled)
        inbox, beside = await world.listen("inbox.7"), await world.listen("echo")
        await world.publish("echo", b"hi", reply="inbox.7")
        await handled.payloads(1)
        (message,) = handled.messages
        assert message.reply == "inbox.7"
        await stream.publish(Output(message.reply, b"HI", {}, message))
        answer = await inbox.next()
        assert (answer.subject, answer.data, answer.reply) == ("inbox.7", b"HI", "")
        assert [delivery.data for delivery in beside.deliveries] == [b"hi"]

    @in_world
    async def test_what_was_replayed_for_another_handler(self, world: World) -> None:
        """It is passed over, and the next message comes."""
        stream, handled = await world.stream("again", whom="com.example.a.mine"), Handled()
        await stream.consume(handled)
        await world.publish("again", b"theirs", {"Atmo-Replay-For": "com.example.b.mine"})
        await world.publish("again", b"mine", {"Atmo-Replay-For": "com.example.a.mine"})
        await world.publish("again", b"anybody's")
        assert await handled.payloads(2) == [b"mine", b"anybody's"]

    @in_world
    async def test_a_target(self, world: World) -> None:
        """`respondTo`: the output goes there, the reply subject gets nothing."""
        stream, handled = await world.stream("in"), Handled()
        await stream.consume(handled)
        target, inbox = await world.listen("elsewhere.a"), await world.listen("inbox")
        await world.publish("in", b"hi", reply="inbox")
        await handled.payloads(1)
        (message,) = handled.messages
        await stream.publish(Output("elsewhere.a", b"HI", {}, message))
        assert (await target.next()).data == b"HI"
        await stream.publish(Output("inbox", b"end", {}, message))
        assert (await inbox.next()).data == b"end"

    @in_world
    async def test_grav_is_answered_in_kind(self, world: World) -> None:
        """An envelope is taken off; the answer is in one that refers to it, and its type is the subject."""
        stream, handled = await world.stream("grav"), Handled()
        await stream.consume(handled)
        inbox = await world.listen("inbox")
        sent = grav.wrap(ALL_BYTES, "com.x")
        await world.publish("grav", sent, reply="inbox")
        await handled.payloads(1)
        (message,) = handled.messages
        uuid = json.loads(sent)["meta"]["uuid"]
        assert (message.data, message.envelope) == (ALL_BYTES, uuid)
        await stream.publish(Output("inbox", b"HI", {}, message))
        answer = json.loads((await inbox.next()).data)
        assert base64.b64decode(answer["payload"]["data"]) == b"HI"
        assert (answer["meta"]["response_to"], answer["meta"]["msg_type"]) == (uuid, "inbox")

    @pytest.mark.parametrize(
        ("envelope", "data", "is_answer_wrapped"),
        [
            ("raw", b"wrapped", False),
            ("auto", b"plain", False),
            ("auto", b"wrapped", True),
            ("grav", b"plain", True),
            ("grav", b"wrapped", True),
        ],
    )
    def test_the_handlers_choice(
        self, make_world: MakeWorld, envelope: Literal["auto", "raw", "grav"], data: bytes, is_answer_wrapped: bool
    ) -> None:
        """`envelope: raw` takes nothing off and puts nothing on, `auto` answers in kind, `grav` wraps all."""
        sent = grav.wrap(b"hi", "com.x") if data == b"wrapped" else b"hi"

        async def body() -> None:
            async with make_world() as world:
                stream = await world.stream("choice", envelope=envelope)
                await stream.consume(answering(stream))
                answer = (await request(world, "choice", sent)).data
                unwrapped = grav.unwrap(answer)
                if is_answer_wrapped:
                    assert unwrapped is not None and unwrapped.data == b"hi"
                else:
                    assert answer == sent

        run(body())

    @in_world
    async def test_received_headers(self, world: World) -> None:
        """Names in lower case, of a repeated name the last value, blanks around values gone."""
        stream, handled = await world.stream("headers"), Handled()
        await stream.consume(handled)
        await world.publish("headers", b"1", {"X-One": "1", "X-Two": "a: b", "x-one": "2", "Empty": ""})
        await world.publish("headers", b"2")
        await handled.payloads(2)
        assert handled.messages[0].headers == {"x-one": "2", "x-two": "a: b", "empty": ""}
        assert handled.messages[1].headers == {}

    @in_world
    async def test_sent_headers(self, world: World) -> None:
        """Names as the guest wrote them; a line break in a value is a blank and makes no second header."""
        stream = await world.stream("x")
        out = await world.listen("out")
        await stream.publish(Output("out", b"hi", {"X-One": "1", "Two": " a\r\nEvil: 1 ", "Zo": "ë"}))
        delivery = await out.next()
        assert delivery.data == b"hi"
        assert delivery.headers == {"X-One": "1", "Two": "a Evil: 1", "Zo": "ë"}

    @in_world
    async def test_the_id_of_a_message(self, world: World) -> None:
        """`Nats-Msg-Id` where the sender gave one, else a new UUID for each."""
        stream, handled = await world.stream("ids"), Handled()
        await stream.consume(handled)
        await world.publish("ids", b"", {"Nats-Msg-Id": "mine"})
        await world.publish("ids", b"")
        await world.publish("ids", b"")
        await handled.payloads(3)
        first, second, third = (message.id for message in handled.messages)
        assert first == "mine" and len(second) == len(third) == 36 and second != third

    @in_world
    async def test_wildcards(self, world: World) -> None:
        """`*` stands for one token, a last `>` for one or more; the message says on which subject it came."""
        star, tail = Handled(), Handled()
        await (await world.stream("w.*.z", group="star")).consume(star)
        await (await world.stream("w.>", group="tail")).consume(tail)
        for subject in ("w", "w.a", "w.a.z", "w.a.b.z", "w.b.z", "v.a.z", "w.last"):
            await world.publish(subject, b"")
        await tail.payloads(5)
        assert [message.subject for message in tail.messages] == ["w.a", "w.a.z", "w.a.b.z", "w.b.z", "w.last"]
        await star.payloads(2)
        assert [message.subject for message in star.messages] == ["w.a.z", "w.b.z"]

    @in_world
    async def test_a_group_shares(self, world: World) -> None:
        """Each message goes to one member, and every member gets some."""
        members = [Handled() for _ in range(3)]
        for member in members:
            await (await world.stream("shared")).consume(member)
        await self._published_once(world, "shared", members, 300)
        assert all(len(member.messages) > 30 for member in members)

    @in_world
    async def test_a_group_on_two_patterns(self, world: World) -> None:
        """Members may differ in what they subscribe to: of those that match, one gets the message."""
        members = [Handled(), Handled()]
        for member, subject in zip(members, ("two.*", "two.b"), strict=True):
            await (await world.stream(subject)).consume(member)
        await self._published_once(world, "two.b", members, 200)
        assert all(member.messages for member in members)

    @in_world
    async def test_two_groups(self, world: World) -> None:
        """Each of them gets all."""
        first, second = Handled(), Handled()
        await (await world.stream("both", group="one")).consume(first)
        await (await world.stream("both", group="two")).consume(second)
        for number in range(20):
            await world.publish("both", b"%d" % number)
        assert await first.payloads(20) == await second.payloads(20) == [b"%d" % number for number in range(20)]

    @in_world
    async def test_no_group(self, world: World) -> None:
        """`group: off`: every subscriber gets every message, also beside a group."""
        members = [Handled() for _ in range(3)]
        for member, group in zip(members, (None, None, "group"), strict=True):
            await (await world.stream("all", group=group)).consume(member)
        for number in range(20):
            await world.publish("all", b"%d" % number)
        for member in members:
            assert await member.payloads(20) == [b"%d" % number for number in range(20)]

    @in_world
    async def test_a_member_that_closes(self, world: World) -> None:
        """It gets no share any more: the others get all."""
        leaving, staying = Handled(), Handled()
        stream = await world.stream("leave")
        await stream.consume(leaving)
        await (await world.stream("leave")).consume(staying)
        await stream.close()
        await self._published_once(world, "leave", [staying], 50)
        assert leaving.messages == []

    @in_world
    async def test_an_error_answer(self, world: World) -> None:
        """An empty message with code and text, in one line, to whoever waits for an answer."""
        stream, handled = await world.stream("errors"), Handled()
        await stream.consume(handled)
        inbox = await world.listen("inbox")
        await world.publish("errors", b"", reply="inbox")
        await handled.payloads(1)
        await stream.answer_error(handled.messages[0], 404, "no such user\r\nat all")
        answer = await inbox.next()
        assert answer.data == b""
        assert answer.headers == {
            "Nats-Service-Error-Code": "404",
            "Nats-Service-Error": "no such user at all",
        }

    @in_world
    async def test_an_error_answer_is_never_wrapped(self, world: World) -> None:
        """Neither for an envelope nor with `envelope: grav`: its headers say it all."""
        stream, handled = await world.stream("errors", envelope="grav"), Handled()
        await stream.consume(handled)
        inbox = await world.listen("inbox")
        await world.publish("errors", grav.wrap(b"hi", "com.x"), reply="inbox")
        await handled.payloads(1)
        await stream.answer_error(handled.messages[0], 500, "failed")
        assert (await inbox.next()).data == b""

    @in_world
    async def test_nobody_waits_for_an_error_answer(self, world: World) -> None:
        """Without a reply subject nothing is sent."""
        stream, handled = await world.stream("errors"), Handled()
        await stream.consume(handled)
        everything = await world.listen(">")
        await world.publish("errors", b"no reply")
        await handled.payloads(1)
        await stream.answer_error(handled.messages[0], 500, "failed")
        await stream.publish(Output("end", b"end", {}))
        assert [(await everything.next()).subject for _ in range(2)] == ["errors", "end"]

    @pytest.mark.parametrize(
        ("size", "headers"), [(MAX_PAYLOAD + 1, {}), (3 * MAX_PAYLOAD, {}), (MAX_PAYLOAD, {"X-One": "1"})]
    )
    def test_a_too_large_output(self, make_world: MakeWorld, size: int, headers: dict[str, str]) -> None:
        """Refused for good, headers counted; the connection lives on, and takes the largest there is."""

        async def body() -> None:
            async with make_world() as world:
                stream = await world.stream("large")
                await stream.consume(answering(stream))
                inbox = await world.listen("inbox")
                with pytest.raises(PublishError, match=f"max_payload of {MAX_PAYLOAD}") as caught:
                    await stream.publish(Output("inbox", b"x" * size, headers))
                assert not caught.value.transient
                await stream.publish(Output("inbox", b"x" * MAX_PAYLOAD, {}))
                assert len((await inbox.next()).data) == MAX_PAYLOAD
                assert (await request(world, "large", b"hi")).data == b"hi"
                assert world.events.told == []

        run(body())

    @pytest.mark.parametrize(
        ("subject", "headers", "why"),
        [
            ("", {}, "subject"),
            ("a b", {}, "blanks"),
            ("a.*", {}, "wildcard"),
            ("a.>", {}, "wildcard"),
            ("a\r\nPUB evil 0\r\n", {}, "blanks"),
            ("x" * 5000, {}, "2048"),
            ("\ud800", {}, "Unicode"),
            ("ok", {"a b": ""}, "header name"),
            ("ok", {"": ""}, "header name"),
        ],
    )
    def test_an_illegal_output(self, make_world: MakeWorld, subject: str, headers: dict[str, str], why: str) -> None:
        """A guest's header or a target that no server takes: refused for good before the server sees it."""

        async def body() -> None:
            async with make_world() as world:
                stream = await world.stream("illegal")
                everything = await world.listen(">")
                with pytest.raises(PublishError, match=why) as caught:
                    await stream.publish(Output(subject, b"x", headers))
                assert not caught.value.transient
                await stream.publish(Output("end", b"", {}))
                assert (await everything.next()).subject == "end"
                assert world.events.told == []

        run(body())

    @in_world
    async def test_order(self, world: World) -> None:
        """Messages reach the handler, and outputs the broker, in the order in which they were sent."""
        stream, handled = await world.stream("order"), Handled()
        out = await world.listen("out")

        async def pass_on(message: Message) -> None:
            await handled(message)
            await stream.publish(Output("out", message.data, {"N": "1"} if len(message.data) % 2 else {}, message))

        await stream.consume(pass_on)
        wanted = [b"%d" % number for number in range(3000)]
        for data in wanted:
            await world.publish("order", data)
        assert await handled.payloads(len(wanted)) == wanted
        assert [(await out.next()).data for _ in wanted] == wanted

    @in_world
    async def test_the_next_message_waits_for_the_handler(self, world: World) -> None:
        """While it has not returned nothing more is handed over; `pending` counts what waits."""
        stream, handled = await world.stream("wait"), Handled(shut=True)
        await stream.consume(handled)
        for number in range(10):
            await world.publish("wait", b"%d" % number)
        await handled.payloads(1)
        while stream.pending() < 9:
            await asyncio.sleep(0.001)
        assert [message.data for message in handled.messages] == [b"0"]
        handled.open()
        await handled.payloads(10)
        assert stream.pending() == 0

    @pytest.mark.parametrize("bounds", [{"max_pending": 10}, {"max_pending_bytes": 10 * 105}])
    def test_over_the_bound_messages_are_dropped(self, make_world: MakeWorld, bounds: dict[str, Any]) -> None:
        """The new ones, counted; reading goes on, and when there is room again messages come through."""

        async def body() -> None:
            async with make_world() as world:
                stream, handled = await world.stream("flood", **bounds), Handled(shut=True)
                await stream.consume(handled)
                await world.publish("flood", b"%0100d" % 0)
                await handled.payloads(1)
                for number in range(1, 100):
                    await world.publish("flood", b"%0100d" % number)
                await world.events.until(lambda: sum(world.events.drops) >= 89)
                assert sum(world.events.drops) == 89 and stream.pending() == 10
                handled.open()
                assert [int(data) for data in await handled.payloads(11)] == list(range(11))
                await world.publish("flood", b"after")
                assert (await handled.payloads(12))[-1] == b"after"
                assert sum(world.events.drops) == 89 and world.events.told == []

        run(body())

    @in_world
    async def test_stop_hands_over_what_is_pending(self, world: World) -> None:
        """All that was received is given to the handler before it returns; what comes later is another's."""
        stream, handled = await world.stream("stop"), Handled(shut=True)
        await stream.consume(handled)
        for number in range(50):
            await world.publish("stop", b"%d" % number)
        await handled.payloads(1)
        stopping = asyncio.ensure_future(stream.stop())
        other = Handled()
        await (await world.stream("stop")).consume(other)
        while stream.pending() < 49 - len(other.messages):
            await asyncio.sleep(0.001)
        assert not stopping.done()
        handled.open()
        await stopping
        await world.publish("stop", b"later")
        await other.until(lambda: any(message.data == b"later" for message in other.messages))
        taken = [message.data for message in handled.messages]
        assert taken + [message.data for message in other.messages] == [*(b"%d" % n for n in range(50)), b"later"]
        assert stream.pending() == 0

    @in_world
    async def test_outputs_after_a_stop(self, world: World) -> None:
        """What was in flight may still publish; `close` sends it before it disconnects."""
        stream = await world.stream("stopped")
        await stream.consume(Handled())
        out = await world.listen("out")
        await stream.stop()
        for number in range(100):
            await stream.publish(Output("out", b"%d" % number, {}))
        await stream.close()
        assert [(await out.next()).data for _ in range(100)] == [b"%d" % number for number in range(100)]

    @in_world
    async def test_an_outage(self, world: World) -> None:
        """What cannot be kept for the broker's return is refused for now; what was accepted arrives, in order."""
        stream, handled = await world.stream("outage"), Handled()
        await stream.consume(handled)
        await world.break_off()
        accepted = 0
        with pytest.raises(PublishError, match="out of reach") as caught:
            while accepted < 100:
                await stream.publish(Output("outage", MIB[:-10] + b"%010d" % accepted, {}))
                accepted += 1
        assert caught.value.transient and accepted < 10
        await world.come_back()
        await stream.publish(Output("outage", b"%010d" % accepted, {}))
        numbers = [int(data[-10:]) for data in await handled.payloads(accepted + 1)]
        assert numbers == list(range(accepted + 1))

    @in_world
    async def test_a_stop_during_an_outage(self, world: World) -> None:
        """Nothing is taken when the broker is back: it would never be handed over."""
        stream, handled = await world.stream("stop.out"), Handled()
        await stream.consume(handled)
        await world.break_off()
        await stream.stop()
        await world.come_back()
        other = Handled()
        await (await world.stream("stop.out")).consume(other)
        for number in range(20):
            await world.publish("stop.out", b"%d" % number)
        assert await other.payloads(20) == [b"%d" % number for number in range(20)]
        assert handled.messages == [] and stream.pending() == 0

    @in_world
    async def test_a_handler_that_fails(self, world: World) -> None:
        """It never should: one message is lost, the loop's exception handler is told, the stream goes on."""
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        stream, handled = await world.stream("fail"), Handled()

        async def fail_once(message: Message) -> None:
            if message.data == b"bad":
                raise ValueError("bad")
            await handled(message)

        await stream.consume(fail_once)
        for data in (b"1", b"bad", b"2"):
            await world.publish("fail", data)
        assert await handled.payloads(2) == [b"1", b"2"]
        assert [str(context["exception"]) for context in told] == ["bad"]

    @in_world
    async def test_a_life_in_any_order(self, world: World) -> None:
        """`stop` and `close` return after each other, twice, and without a `consume` before."""
        unused, used = await world.stream("life"), await world.stream("life")
        await unused.stop()
        await unused.close()
        await unused.close()
        await used.consume(Handled())
        await used.stop()
        await used.stop()
        await used.close()
        await used.stop()
        await used.close()
        assert used.pending() == 0 and world.events.told == []

    async def _published_once(self, world: World, subject: str, members: list[Handled], count: int) -> None:
        """Publish so many; together the members get each once."""
        for number in range(count):
            await world.publish(subject, b"%d" % number)
        everyone = [message for member in members for message in member.messages]
        while len(everyone) < count:
            await asyncio.sleep(0.001)
            everyone = [message for member in members for message in member.messages]
        assert sorted(int(message.data) for message in everyone) == list(range(count))


class MemoryWorld:
    """A MemoryBroker, which is all there is."""

    def __init__(self) -> None:
        self.events = Events()
        self._broker = MemoryBroker(MAX_PAYLOAD)

    async def stream(self, subject: str, *, group: str | None = "group", **keys: Any) -> MemoryStream:
        stream = MemoryStream(self._broker, subject, group=group, events=self.events, **keys)
        await stream.open()
        return stream

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        self._broker.publish(subject, data, headers, reply)
        await asyncio.sleep(0)

    async def listen(self, subject: str) -> Inbox:
        inbox = Inbox()
        self._broker.subscribe(subject, inbox.receive)
        return inbox

    async def break_off(self) -> None:
        self._broker.refusing = True

    async def come_back(self) -> None:
        self._broker.refusing = False


class NatsWorld:
    """A nats-server that may be killed, and a client of nats-py that is no stream."""

    def __init__(self, server: NatsServer) -> None:
        self.events = Events()
        self._server = server
        self._client = Client()
        self._streams: list[NatsStream] = []

    async def begin(self) -> None:
        await self._client.connect(self._server.url, reconnect_time_wait=0, max_reconnect_attempts=-1)

    async def end(self) -> None:
        for stream in self._streams:
            await stream.close()
        await self._client.close()

    async def stream(self, subject: str, *, group: str | None = "group", **keys: Any) -> NatsStream:
        connection = nats_connection(self._server.url)
        stream = NatsStream(connection, subject, group=group, client_name="test", events=self.events, **keys)
        await stream.open()
        self._streams.append(stream)
        return stream

    async def publish(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        await self._client.publish(subject, data, reply, dict(headers) if headers else None)

    async def listen(self, subject: str) -> Inbox:
        inbox = Inbox()

        async def receive(message: Msg) -> None:
            inbox.receive(Delivery(message.subject, message.data, message.headers or {}, message.reply))

        await self._client.subscribe(subject, cb=receive)
        for _ in range(2):  # the first PING of nats-py overtakes the subscription
            await self._client.flush()
        return inbox

    async def break_off(self) -> None:
        self._server.kill()
        await self.events.until(lambda: self.events.told[-1:] != [] and self.events.told[-1] != "connected")

    async def come_back(self) -> None:
        told = len(self.events.told)
        self._server.start()
        await self.events.until(lambda: "connected" in self.events.told[told:])
        while not self._client.is_connected:
            await asyncio.sleep(0.001)


@pytest.fixture(scope="module")
def the_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("contract"), max_payload(MAX_PAYLOAD))
    yield server
    server.stop()


@pytest.fixture
def mortal_server(the_server: NatsServer) -> NatsServer:
    """A server that tests may kill: it runs at the beginning of each."""
    if not the_server.running:
        the_server.start()
    return the_server


class TestMemoryStream(StreamSuite):
    """Without a server."""

    @pytest.fixture
    def make_world(self) -> MakeWorld:
        @contextlib.asynccontextmanager
        async def world() -> AsyncIterator[MemoryWorld]:
            yield MemoryWorld()

        return world

    @in_world
    async def test_request(self, world: MemoryWorld) -> None:
        """The broker's own way to ask: the first answer to a message with an inbox of its own."""
        stream = await world.stream("ask")
        await stream.consume(answering(stream))
        answers = await asyncio.gather(*(world._broker.request("ask", b"%d" % number) for number in range(10)))
        assert [answer.data for answer in answers] == [b"%d" % number for number in range(10)]
        assert len(world._broker._subscribers) == 1


class TestNatsStream(StreamSuite):
    """On a nats-server."""

    @pytest.fixture
    def make_world(self, mortal_server: NatsServer) -> MakeWorld:
        server = mortal_server

        @contextlib.asynccontextmanager
        async def world() -> AsyncIterator[NatsWorld]:
            made = NatsWorld(server)
            await made.begin()
            try:
                yield made
            finally:
                await made.end()

        return world
