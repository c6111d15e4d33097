"""A KafkaStream on a real broker: what is handed over and when, what is committed, what its outages and its end do."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import pytest
from kafka import KafkaConsumer

from atmo_farm.directive.model import DeadLetter
from atmo_farm.errors import CannotStart, PublishError
from atmo_farm.streams.base import Message, Output
from atmo_farm.streams.kafka import (
    clients,
    drivers,
    kafka_python_client,
    kafka_python_producer,
    librdkafka_client,
    librdkafka_consumer,
    librdkafka_producer,
    owner,
    writing,
)
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.stream import KafkaStream
from tests.kafka import committed, create_topic, delete_topic, new_name, new_topic, read_all, write
from tests.servers.kafka import KafkaServer
from tests.streams import Events, Handled, run

StartKafka = Callable[[str], KafkaServer]


@pytest.fixture(params=["kafka-python", "librdkafka"], autouse=True)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All of it with every driver: here `auto` is the one at hand."""
    chosen = drivers.choose(request.param)
    monkeypatch.setattr(drivers, "choose", lambda _: chosen)
    return chosen.name


@contextlib.asynccontextmanager
async def stream_of(
    server: KafkaServer, topic: str, group: str = "", events: Events | None = None, **keys: Any
) -> AsyncIterator[KafkaStream]:
    """Open; closed in the end."""
    membership = keys.pop("membership", Membership(group or new_name("group"), "", "earliest", 6.0))
    connection = keys.pop("connection", None) or server.connection()
    stream = KafkaStream(connection, topic, membership=membership, client_id="tests", events=events or Events(), **keys)
    try:
        await stream.open()
        yield stream
    finally:
        await stream.close()


async def in_thread(call: Callable[..., Any], *arguments: Any, **keys: Any) -> Any:
    """A blocking client's call, while the stream goes on."""
    return await asyncio.get_running_loop().run_in_executor(None, lambda: call(*arguments, **keys))


async def until(holds: Callable[[], Awaitable[bool]], within_s: float = 15.0) -> None:
    """Ask every 50 ms: for what only the broker knows."""
    async with asyncio.timeout(within_s):
        while not await holds():
            await asyncio.sleep(0.05)


def noted(method: Callable[..., Any], note: Callable[[], None]) -> Callable[..., Any]:
    """The method, with a note before each call."""

    def call(*arguments: Any) -> Any:
        note()
        return method(*arguments)

    return call


def values(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


class TestMessages:
    def test_lag_is_what_was_not_received(self, kafka_server: KafkaServer) -> None:
        """By partition that is ours and of which something was read; with nothing behind, all are 0."""
        topic = new_topic(kafka_server, partitions=2)

        async def body() -> None:
            async with stream_of(kafka_server, topic) as stream:
                assert await stream.lag() == {}
                write(kafka_server, topic, values(5), partition=1)
                await stream.consume(handled := Handled())
                await handled.payloads(5)

                async def caught_up() -> bool:
                    lag = await stream.lag()
                    return lag.get(1) == 0 and not any(lag.values())

                await until(caught_up)

        run(body())

    def test_who_waits_for_an_output_before_taking_more(self, kafka_server: KafkaServer) -> None:
        """A worker without a free place: nothing is handed over meanwhile, and what frees the place is still sent."""
        topic, out = new_topic(kafka_server), new_topic(kafka_server)
        write(kafka_server, topic, values(5))

        async def body() -> None:
            async with stream_of(kafka_server, topic) as stream:
                handled = Handled()

                async def handle(message: Message) -> None:
                    await stream.publish(Output(out, message.data, {}))
                    stream.ack(message)
                    await handled(message)

                await stream.consume(handle)
                assert await handled.payloads(5) == values(5)

        run(body())
        assert [one.value for one in read_all(kafka_server, out)] == values(5)

    def test_a_message_has_all_that_its_record_has(self, kafka_server: KafkaServer) -> None:
        """Key, headers, origin; a stable id and number; a null value arrives empty and says so."""
        topic = new_topic(kafka_server, partitions=2)

        async def body() -> list[Message]:
            async with stream_of(kafka_server, topic) as stream:
                await stream.publish(Output(topic, b"one", {"Trace": "é"}, record_key=b"k"))
                write(kafka_server, topic, [b"two"], partition=0)
                handled = Handled()
                await stream.consume(handled)
                await handled.payloads(2)
                return handled.messages

        first, second = run(body()), run(body())
        assert sorted(one.id for one in first) == sorted(one.id for one in second if one.data in (b"one", b"two"))[:2]
        (one,) = [message for message in first if message.data == b"one"]
        assert (one.subject, one.headers, one.record_key, one.reply) == (topic, {"trace": "é"}, b"k", "")
        assert one.origin is not None
        assert one.origin.field("atmo-key") == "k"
        assert int(one.origin.field("atmo-offset")) >= 0
        assert one.origin.field("atmo-partition") == str(one.partition)
        assert abs(int(one.origin.field("atmo-timestamp")) / 1000 - time.time()) < 60
        assert one.origin.field("atmo-null") == "" and one.number >> 48 == one.partition + 1

    def test_a_grav_envelope_is_opened_and_its_dead_letter_is_what_came(self, kafka_server: KafkaServer) -> None:
        """As on NATS. The topic of dead letters is made when it is not there."""
        topic, dead = new_topic(kafka_server), new_name("app.orders.dead")
        raw = (
            b'{"meta":{"uuid":"u","parent_id":"","response_to":"","msg_type":"t","timestamp":"x"},'
            b'"payload":{"data":"aGk="}}'
        )
        write(kafka_server, topic, [raw])

        async def body() -> None:
            async with stream_of(kafka_server, topic, dead_letter=DeadLetter(dead)) as stream:
                handled = Handled()
                await stream.consume(handled)
                assert await handled.payloads(1) == [b"hi"]
                (message,) = handled.messages
                assert message.raw == raw
                await stream.bury(Output(dead, message.raw, {"Atmo-Dead-Cause": "trap"}, record_key=b"k"))

        run(body())
        (letter,) = read_all(kafka_server, dead)
        assert (letter.value, letter.key, letter.headers) == (raw, b"k", {"Atmo-Dead-Cause": b"trap"})


class TestCommitting:
    def test_only_what_is_processed_without_a_gap_is_committed(self, kafka_server: KafkaServer) -> None:
        """Out of order ends wait for the first; who comes after begins at the gap."""
        topic, group = new_topic(kafka_server), new_name("group")
        write(kafka_server, topic, values(10))

        async def body() -> None:
            async with stream_of(kafka_server, topic, group) as stream:
                handled = Handled()
                await stream.consume(handled)
                await handled.payloads(10)
                for message in handled.messages:
                    if message.data not in (b"3", b"7"):
                        stream.ack(message)
                await until(lambda: in_thread(lambda: committed(kafka_server, group, topic) == {0: 3}))
                stream.terminate(handled.messages[3])
                await until(lambda: in_thread(lambda: committed(kafka_server, group, topic) == {0: 7}))
            async with stream_of(kafka_server, topic, group) as stream:
                handled = Handled()
                await stream.consume(handled)
                assert await handled.payloads(3) == [b"7", b"8", b"9"]

        run(body())

    def test_the_end_commits_what_was_acknowledged_last(self, kafka_server: KafkaServer) -> None:
        """And writes what was published last."""
        topic, target, group = new_topic(kafka_server), new_topic(kafka_server), new_name("group")
        write(kafka_server, topic, values(5))

        async def body() -> None:
            async with stream_of(kafka_server, topic, group) as stream:
                handled = Handled()
                await stream.consume(handled)
                await handled.payloads(5)
                await stream.stop()
                published = stream.publish(Output(target, b"last", {}))
                for message in handled.messages:
                    stream.ack(message)
                await stream.close()
                await published

        run(body())
        assert committed(kafka_server, group, topic) == {0: 5}
        assert [one.value for one in read_all(kafka_server, target)] == [b"last"]

    def test_after_stop_nothing_is_handed_over(self, kafka_server: KafkaServer) -> None:
        """What waited, and what comes now, is the group's."""
        topic, group = new_topic(kafka_server), new_name("group")
        write(kafka_server, topic, values(100))

        async def body() -> None:
            async with stream_of(kafka_server, topic, group, max_in_flight=10) as stream:
                handled = Handled()
                await stream.consume(handled)
                await handled.payloads(10)
                assert stream.pending() == 90
                await stream.stop()
                await in_thread(write, kafka_server, topic, [b"late"])
                for message in handled.messages[:]:
                    stream.ack(message)
                await until(lambda: in_thread(lambda: committed(kafka_server, group, topic) == {0: 10}))
                assert len(handled.messages) == 10 and stream.pending() == 0

        run(body())


class TestGroups:
    def test_members_come_and_go_and_nothing_is_lost(self, kafka_server: KafkaServer, driver: str) -> None:
        """What is in hand when a partition moves comes at most once more; with librdkafka it ends before."""
        topic, group = new_topic(kafka_server, partitions=4), new_name("group")
        for partition in range(4):
            write(kafka_server, topic, values(400, 1000 * partition), partition=partition)

        async def body() -> list[int]:
            seen: list[int] = []
            tasks: set[asyncio.Task[None]] = set()
            done = asyncio.Event()

            async def member(most: int) -> None:
                """To the end, or until it has seen so many, so not amid its joining."""
                own = 0
                async with stream_of(kafka_server, topic, group, max_in_flight=20) as stream:
                    places = asyncio.Semaphore(20)

                    async def see_through(message: Message) -> None:
                        nonlocal own
                        await asyncio.sleep(0.04)
                        seen.append(int(message.data))
                        own += 1
                        stream.ack(message)
                        places.release()
                        if len(set(seen)) == 1600:
                            done.set()

                    async def handle(message: Message) -> None:
                        await places.acquire()
                        tasks.add(asyncio.create_task(see_through(message)))

                    await stream.consume(handle)
                    while not (own >= most or done.is_set()):
                        await asyncio.sleep(0.01)
                    await stream.stop()
                    async with asyncio.timeout(5):
                        while places._value < 20:
                            await asyncio.sleep(0.01)

            first = asyncio.create_task(member(1600))
            while len(seen) < 100:
                await asyncio.sleep(0.01)
            await asyncio.wait_for(member(100), 30)
            await first
            return seen

        seen = run(body(), patience_s=60)
        assert sorted(set(seen)) == [number for number in range(4000) if number % 1000 < 400]
        assert len(seen) - 1600 <= (0 if driver == "librdkafka" else 40)
        assert committed(kafka_server, group, topic) == dict.fromkeys(range(4), 400)

    def test_a_handler_slower_than_the_longest_pause_between_polls(
        self, kafka_server: KafkaServer, driver: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The owner polls meanwhile, so the member stays, and the message does not come again."""
        topic, group, longest_ms = new_topic(kafka_server), new_name("group"), 1000
        if driver == "librdkafka":
            made = librdkafka_consumer.Consumer
            limit = {"max.poll.interval.ms": longest_ms}
            monkeypatch.setattr(librdkafka_consumer, "Consumer", lambda given: made({**given, **limit}))
        else:
            monkeypatch.setitem(KafkaConsumer.DEFAULT_CONFIG, "max_poll_interval_ms", longest_ms)
        write(kafka_server, topic, values(2))

        async def body() -> None:
            events, handled = Events(), Handled()
            membership = Membership(group, "id", "earliest", longest_ms / 1000)
            async with stream_of(kafka_server, topic, events=events, membership=membership) as stream:
                await stream.consume(handled)
                await handled.payloads(2)
                await asyncio.sleep(2.5 * longest_ms / 1000)
                for message in handled.messages:
                    stream.ack(message)
                await until(lambda: in_thread(lambda: committed(kafka_server, group, topic) == {0: 2}))
                assert len(handled.messages) == 2 and events.told == []

        run(body())


class TestFlow:
    def test_one_that_is_tried_again_and_again_holds_its_partition_at_the_bound(
        self, kafka_server: KafkaServer
    ) -> None:
        """`maxInFlight` past it, no further; the other partition goes on."""
        topic = new_topic(kafka_server, partitions=2)
        write(kafka_server, topic, values(50), partition=0)
        write(kafka_server, topic, values(50, 100), partition=1)

        async def body() -> None:
            async with stream_of(kafka_server, topic, max_in_flight=8, ordered=False) as stream:
                handled = Handled()

                async def all_but_the_first(message: Message) -> None:
                    await handled(message)
                    if message.data != b"0":
                        asyncio.get_running_loop().call_soon(stream.ack, message)

                await stream.consume(all_but_the_first)
                await handled.payloads(58)
                await asyncio.sleep(0.2)
                assert sorted(int(one.data) for one in handled.messages) == [*range(8), *range(100, 150)]
                stream.ack(next(one for one in handled.messages if one.data == b"0"))
                await handled.payloads(100)

        run(body())

    def test_more_than_fits_is_paused_and_all_of_it_comes(self, kafka_server: KafkaServer) -> None:
        """Memory is bounded whatever the topic holds; order holds within a partition."""
        topic = new_topic(kafka_server, partitions=3)
        for partition in range(3):
            write(kafka_server, topic, values(6000), partition=partition)

        async def body() -> None:
            async with stream_of(kafka_server, topic, max_in_flight=64) as stream:
                came: dict[int, list[int]] = {0: [], 1: [], 2: []}
                done = asyncio.get_running_loop().create_future()
                most = 0

                async def handle(message: Message) -> None:
                    nonlocal most
                    most = max(most, stream.pending())
                    came[message.partition].append(int(message.data))
                    asyncio.get_running_loop().call_soon(stream.ack, message)
                    if sum(map(len, came.values())) == 18_000:
                        done.set_result(None)

                await stream.consume(handle)
                await done
                assert came == {number: list(range(6000)) for number in range(3)}
                assert most <= 3 * (2000 + 500)

        run(body())

    def test_one_partition_that_keeps_up_is_never_paused(
        self, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To resume one costs librdkafka 0.2 s and all that it has fetched: so no more is read than is worked on."""
        paused: list[int] = []

        def noting(own: clients.Clients, pause: Collection[int], resume: Collection[int]) -> None:
            paused.extend(pause)

        monkeypatch.setattr(clients.Clients, "flow", noting)
        topic = new_topic(kafka_server)
        write(kafka_server, topic, values(20_000))

        async def body() -> None:
            async with stream_of(kafka_server, topic) as stream:
                handled = Handled()

                async def handle(message: Message) -> None:
                    await handled(message)
                    asyncio.get_running_loop().call_soon(stream.ack, message)

                await stream.consume(handle)
                await handled.payloads(20_000)
                assert paused == []

        run(body())

    def test_one_that_stands_does_not_starve_the_others(self, kafka_server: KafkaServer) -> None:
        """However much the broker has of it."""
        topic = new_topic(kafka_server, partitions=3)
        for partition in range(3):
            write(kafka_server, topic, values(6000), partition=partition)

        async def body() -> None:
            async with stream_of(kafka_server, topic, max_in_flight=64) as stream:
                handled, held = Handled(), []

                async def handle(message: Message) -> None:
                    if message.partition == 0:
                        held.append(message)
                    else:
                        await handled(message)
                        asyncio.get_running_loop().call_soon(stream.ack, message)

                await stream.consume(handle)
                await handled.payloads(12_000)
                assert len(held) <= 64
                assert stream.pending() <= 2000 + 500

        run(body())


class TestPublishing:
    def test_a_record_that_is_too_large_fails_alone(self, kafka_server: KafkaServer) -> None:
        """Those published at the same time, and later ones, are accepted."""
        topic = new_topic(kafka_server)
        small = new_topic(kafka_server, max_message_bytes=2000)

        async def body() -> None:
            async with stream_of(kafka_server, topic) as stream:
                sizes = (10, 5000, 20, 30)
                results = await asyncio.gather(
                    *(stream.publish(Output(small, b"x" * size, {})) for size in sizes), return_exceptions=True
                )
                assert [isinstance(one, PublishError) for one in results] == [False, True, False, False]
                assert isinstance(results[1], PublishError) and not results[1].transient
                await stream.publish(Output(small, b"x" * 40, {}))

        run(body())
        assert sorted(len(one.value or b"") for one in read_all(kafka_server, small)) == [10, 20, 30, 40]

    def test_no_more_than_a_bound_is_given_to_the_client_at_once(
        self, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """(Fault 5: its queue has none.) However much is published in one turn, all of it arrives, in order."""
        size, bound = 1000, 20_000
        monkeypatch.setattr(writing, "FLUSH_BYTES", bound)
        given = [0]
        for producer in (kafka_python_producer.KafkaPythonProducer, librdkafka_producer.LibrdkafkaProducer):
            monkeypatch.setattr(producer, "send", noted(producer.send, lambda: given.append(given.pop() + size)))
            monkeypatch.setattr(producer, "flush", noted(producer.flush, lambda: given.append(0)))
        topic = new_topic(kafka_server)

        published = [b"%*d" % (size, number) for number in range(200)]

        async def body() -> None:
            async with stream_of(kafka_server, topic) as stream:
                await asyncio.gather(*(stream.publish(Output(topic, value, {})) for value in published))

        run(body())
        assert [one.value for one in read_all(kafka_server, topic)] == published
        assert sum(given) == 200 * size and max(given) <= bound

    def test_an_unknown_topic_is_an_error_that_may_pass(self, kafka_server: KafkaServer) -> None:
        """Somebody may make it."""

        async def body() -> None:
            async with stream_of(kafka_server, new_topic(kafka_server)) as stream:
                with pytest.raises(PublishError, match="topic 'nowhere' does not exist") as raised:
                    await stream.publish(Output("nowhere", b"x", {}))
                assert raised.value.transient
                with pytest.raises(PublishError, match="not legal"):
                    await stream.publish(Output("not legal", b"x", {}))

        run(body())


class TestTrouble:
    def test_a_missing_topic_is_said_with_the_command_that_makes_it(self, kafka_server: KafkaServer) -> None:
        """The farm makes no input topics."""

        async def body() -> None:
            create = f"kafka-topics.sh --bootstrap-server {kafka_server.address()} --create --topic nothing-here"
            with pytest.raises(CannotStart, match=create):
                async with stream_of(kafka_server, "nothing-here"):
                    pass

        run(body())

    def test_a_deleted_topic_is_told_and_one_made_anew_is_consumed(
        self, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a restart."""
        for library in ("kafka_python_consumer", "librdkafka_consumer"):
            monkeypatch.setattr(f"atmo_farm.streams.kafka.{library}.METADATA_AGE_S", 0.5)
        topic = new_topic(kafka_server)
        write(kafka_server, topic, values(3))

        async def body() -> None:
            events, handled = Events(), Handled()
            async with stream_of(kafka_server, topic, events=events) as stream:
                await stream.consume(handled)
                await handled.payloads(3)
                for message in handled.messages:
                    stream.ack(message)
                await in_thread(delete_topic, kafka_server, topic)
                await events.until(lambda: any("does not exist" in one for one in events.told))
                await in_thread(create_topic, kafka_server, topic)
                await in_thread(write, kafka_server, topic, [b"anew"])
                assert (await handled.payloads(4))[3] == b"anew"
                await events.until_told("connected")

        run(body())

    def test_who_is_not_let_in_waits_and_says_why(
        self, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Once; giving up is quick and clean."""
        for library in (kafka_python_client, librdkafka_client):
            monkeypatch.setattr(library, "BOOTSTRAP_TIMEOUT_S", 0.7)
        monkeypatch.setattr(owner, "TRY_AGAIN_S", 0.05)

        async def body() -> None:
            events = Events()
            connection = kafka_server.connection("SASL_PLAINTEXT", sasl_password="canary-wrong")

            async def opening() -> None:
                async with stream_of(kafka_server, "any", events=events, connection=connection):
                    pass

            task = asyncio.create_task(opening())
            await events.until(lambda: bool(events.told))
            await asyncio.sleep(1.0)
            task.cancel()
            await asyncio.wait((task,))
            assert len(events.told) == 1
            assert "wrong user name or password" in events.told[0] and "canary" not in events.told[0]
            assert events.connection == "kafka default"

        run(body())

    def test_a_fenced_member_ends(self, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also when it has nothing new to commit."""
        monkeypatch.setattr(clients, "COMMIT_AGAIN_S", 0.2)
        topic, group = new_topic(kafka_server), new_name("group")
        write(kafka_server, topic, values(1))
        same = Membership(group, "same.id", "earliest", 6.0)

        async def body() -> None:
            events, handled = Events(), Handled()
            async with stream_of(kafka_server, topic, events=events, membership=same) as first:
                await first.consume(handled)
                await handled.payloads(1)
                first.ack(handled.messages[0])
                await until(lambda: in_thread(lambda: committed(kafka_server, group, topic) == {0: 1}))
                async with stream_of(kafka_server, topic, membership=same) as second:
                    await second.consume(Handled())
                    await events.until(lambda: bool(events.told))
            assert events.told == ["closed: another process has joined the group with this worker's id"]

        run(body())


class TestOutages:
    def test_a_broker_that_is_silent_or_killed_and_comes_back(
        self, start_kafka: StartKafka, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Told once for each outage; outputs wait for its end; nothing is lost. The end waits for no broker."""
        for library in (kafka_python_client, librdkafka_client):
            monkeypatch.setattr(library, "REQUEST_TIMEOUT_S", 1.0)
        server = start_kafka("")
        topic, target = new_topic(server), new_topic(server)
        write(server, topic, values(100))

        async def body() -> None:
            events, handled = Events(), Handled()

            async def until_waiting(times: int) -> None:
                await events.until(lambda: sum(one.startswith("waiting") for one in events.told) >= times)

            async with stream_of(server, topic, events=events, max_in_flight=50) as stream:
                over = False

                async def handle(message: Message) -> None:
                    await handled(message)
                    if over:
                        asyncio.get_running_loop().call_soon(stream.ack, message)

                await stream.consume(handle)
                await handled.payloads(50)
                await stream.publish(Output(target, b"before", {}))

                server.pause()
                began = time.monotonic()
                await until_waiting(1)
                assert time.monotonic() - began < 10.0
                server.resume()
                await events.until_told("connected")

                server.kill()
                await until_waiting(2)
                published = asyncio.ensure_future(stream.publish(Output(target, b"during", {})))
                over = True
                for message in handled.messages[:]:
                    stream.ack(message)
                server.start()  # from this thread: PDEATHSIG
                await published
                await handled.until(lambda: len({message.data for message in handled.messages}) == 100)
                # Each of the two outages may cost the membership: what was in hand (50) comes again.
                assert len(handled.messages) <= 100 + 2 * 50
                assert max(Counter(message.data for message in handled.messages).values()) <= 1 + 2
                await events.until_told("connected", 2)
                assert not any(one.startswith("closed") for one in events.told)

                assert {one.value for one in await in_thread(read_all, server, target)} == {b"before", b"during"}
                server.pause()
                began = time.monotonic()
            assert time.monotonic() - began < 8.0

        run(body(), patience_s=90)
