"""Dead letters on a real Kafka broker: read, removed, sent again, and the way there through a farm's command line."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from kafka import KafkaConsumer, TopicPartition

from atmo_farm.errors import PublishError, TimedOut
from atmo_farm.streams.base import Kept, Output
from atmo_farm.streams.kafka.letters import KafkaLetters
from tests.farm import Farm, wait_for, write_app, write_directive
from tests.kafka import config_of, create_topic, new_name, new_topic, read_all, write
from tests.servers.kafka import KafkaServer
from tests.streams import run


def letters(server: KafkaServer, topic: str) -> KafkaLetters:
    return KafkaLetters(server.connection(), topic, "tests")


async def told(place: KafkaLetters, since_s: float | None = None) -> list[Kept]:
    return [kept async for kept in place.letters(since_s)]


def beginning(server: KafkaServer, topic: str) -> int:
    with closing(KafkaConsumer(bootstrap_servers=server.address())) as consumer:
        return int(consumer.beginning_offsets([TopicPartition(topic, 0)])[TopicPartition(topic, 0)])


def test_letters_are_read_and_removed_one_by_one(kafka_server: KafkaServer) -> None:
    """Whoever comes later does not see them either; those at the beginning are deleted."""
    topic = new_topic(kafka_server, partitions=2)
    write(kafka_server, topic, [b"a", b"b", b"c", b"d"])
    write(kafka_server, topic, [b"e"], partition=1)

    async def body() -> None:
        async with letters(kafka_server, topic) as place, letters(kafka_server, topic) as other:
            assert [(kept.id, kept.size, kept.data) for kept in await told(place)] == [
                ("0-0", 1, b""), ("0-1", 1, b""), ("0-2", 1, b""), ("0-3", 1, b""), ("1-0", 1, b""),
            ]  # fmt: skip
            kept = await place.load("0-1")
            assert kept is not None and kept.data == b"b"
            assert await place.remove("0-1") and not await place.remove("0-1")
            assert await place.load("0-1") is None
            assert await other.remove("0-0") and not await other.remove("0-1")
            assert [kept.id for kept in await told(place)] == ["0-2", "0-3", "1-0"]
            for nothing in ("0-4", "0-99", "2-0", "x", "0", "-", "0-x", "9" * 40, "1-0-0"):
                assert await place.load(nothing) is None
                assert not await place.remove(nothing)
        async with letters(kafka_server, topic) as place:
            assert [kept.id for kept in await told(place)] == ["0-2", "0-3", "1-0"]
        assert beginning(kafka_server, topic) == 2
        async with letters(kafka_server, topic) as place:
            assert await place.remove("0-2") and await place.remove("0-3")
        async with letters(kafka_server, topic) as place:
            assert [kept.id for kept in await told(place)] == ["1-0"]
        assert beginning(kafka_server, topic) > 3, "with the marks that stand behind them there"

    run(body())


def test_all_are_removed_at_once(kafka_server: KafkaServer) -> None:
    """Where no other handler's can be there."""
    topic = f"{new_name('app.handler')}.dead"
    create_topic(kafka_server, topic, 2)
    write(kafka_server, topic, [b"a", b"b", b"c"])
    write(kafka_server, topic, [b"d"], partition=1)

    async def body() -> None:
        async with letters(kafka_server, topic) as place:
            assert place.is_alone(topic.removesuffix(".dead")) and not place.is_alone("app.other")
            assert await place.remove("0-1")
            assert await place.purge() == 3
            assert await told(place) == []

    run(body())


def test_letters_since_a_moment(kafka_server: KafkaServer) -> None:
    topic = new_topic(kafka_server)
    write(kafka_server, topic, [b"old"])
    time.sleep(0.02)
    since_s = time.time()
    time.sleep(0.02)
    write(kafka_server, topic, [b"new"])

    async def body() -> None:
        async with letters(kafka_server, topic) as place:
            assert [kept.id for kept in await told(place, since_s)] == ["0-1"]
            assert await told(place, time.time() + 60) == []

    run(body())


def test_what_is_sent_again_is_as_it_was(kafka_server: KafkaServer) -> None:
    """Key, repeated headers and bytes that are no text; what can never be sent says so at once."""
    target = new_topic(kafka_server)
    original = (("a", "1"), ("a", "2"), ("raw", "\udcff"))

    async def body() -> None:
        async with letters(kafka_server, new_name("none")) as place:
            assert await told(place) == [], "the topic is not there yet"
            assert place.problem_of("no topic") and not place.problem_of(target)
            await place.send(Output(target, b"data", {"Atmo-Replays": "1"}, record_key=b"k", original=original))
            with pytest.raises(PublishError) as failed:
                await place.send(Output(target, bytes(2 << 20), {}))
            assert not failed.value.transient

    run(body())
    (found,) = read_all(kafka_server, target)
    assert (found.key, found.value) == (b"k", b"data")
    assert found.headers == {"a": b"2", "raw": b"\xff", "Atmo-Replays": b"1"}


def test_no_broker_is_said_at_once(kafka_server: KafkaServer) -> None:
    async def body() -> None:
        with pytest.raises(TimedOut, match="kafka default is out of reach: connection refused"):
            async with KafkaLetters(kafka_server.connection(broker_addresses=("127.0.0.1:1",)), "topic", "tests"):
                pass

    run(body())


def dlq(farm: Farm, *arguments: str) -> Result:
    return farm.operate("dlq", *arguments)


def listed(farm: Farm, handler: str) -> list[dict[str, Any]]:
    shown = dlq(farm, "list", handler, "--json")
    assert shown.exit_code == 0, shown.output
    return [json.loads(line) for line in shown.stdout.splitlines()]


@pytest.mark.parametrize("driver", ["kafka-python", "librdkafka"])
def test_from_failure_to_replay(tmp_path: Path, kafka_server: KafkaServer, driver: str) -> None:
    """A function fails; its records are listed, shown and, when it is repaired, replayed to it and to nobody else."""
    incoming, repaired, others = (new_topic(kafka_server) for _ in range(3))
    dead = new_name("dead")

    def directive(function: str) -> str:
        return f"""connections:
  kafka: {{brokerAddress: {kafka_server.address()}, driver: {driver}}}
handlers:
  - {{type: stream, source: kafka, resource: {incoming}, name: bad, group: bad-{incoming}, startAt: earliest,
     steps: [{{fn: {function}}}], respondTo: {repaired}, deadLetter: {{resource: {dead}, maxAge: 2h}}}}
  - {{type: stream, source: kafka, resource: {incoming}, name: other, group: other-{incoming}, startAt: earliest,
     steps: [{{fn: hello}}], respondTo: {others}}}
"""

    app = write_app(tmp_path / "app", directive("failing"), ("c", "failing"), ("c", "hello"))
    write(kafka_server, incoming, [b"404 %d" % number for number in range(3)])
    with Farm(app) as farm:
        wait_for(lambda: len(listed(farm, "bad")) == 3, otherwise=farm.tail)
        letter = listed(farm, "bad")[1]
        assert (letter["id"], letter["origin"], letter["cause"], letter["code"]) == ("0-1", incoming, "error", "404")
        assert b"404 1" in dlq(farm, "show", "bad", "0-1").stdout_bytes
        wait_for(lambda: len(read_all(kafka_server, others)) == 3, otherwise=farm.tail)
        write_directive(app, directive("hello"))
        os.kill(farm.pid, signal.SIGHUP)
        farm.wait_log(message="reload: in force")
        assert dlq(farm, "replay", "bad", "0-1").stdout == "1 replayed\n"
        wait_for(
            lambda: [one.value for one in read_all(kafka_server, repaired)] == [b"hello, 404 1"], otherwise=farm.tail
        )
        assert dlq(farm, "purge", "bad", "0-0").stdout == "1 purged\n"
        assert dlq(farm, "replay", "bad", "--to", "no topic").exit_code == 2
        assert dlq(farm, "replay", "bad").stdout == "1 replayed\n"
        wait_for(lambda: len(read_all(kafka_server, repaired)) == 2, otherwise=farm.tail)
        assert listed(farm, "bad") == []
        assert config_of(kafka_server, dead, "retention.ms") == "7200000"  # maxAge
        assert len(read_all(kafka_server, others)) == 3, (
            "what was replayed for one handler is passed over by the others"
        )
