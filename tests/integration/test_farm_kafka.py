"""Records of Kafka through a real farm: topic in, Wasm, topic out; killed and reloaded processes lose nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.farm import Farm, wait_for, write_app, write_directive
from tests.kafka import committed, create_topic, delete_topic, members, new_topic, read_all, write
from tests.servers.kafka import KafkaServer

IN_FLIGHT = 32
SESSION_S = 10.0


def directive(server: KafkaServer, topic: str, keys: str = "", connection: str = "") -> str:
    connection = connection or f"brokerAddress: {server.address()}"
    return f"""connections:
  kafka: {{{connection}}}
handlers:
  - type: stream
    source: kafka
    resource: {topic}
    name: {topic}
    startAt: earliest
    steps: [{{fn: hello}}]
    {keys}
"""


@pytest.mark.parametrize("driver", ["kafka-python", "librdkafka"])
def test_a_killed_consumer_loses_nothing(tmp_path: Path, kafka_server: KafkaServer, driver: str) -> None:
    """kill -9 while it works: each record's output is there under the record's key, twice at most what was in flight;
    a reload then goes on with the same place in the group, nobody is put out by it and nothing comes twice."""
    incoming, outgoing, count = new_topic(kafka_server, partitions=2), new_topic(kafka_server), 2000
    connection = f"brokerAddress: {kafka_server.address()}, driver: {driver}"
    keys = f"group: {incoming}\n    maxInFlight: {IN_FLIGHT}\n    respondTo: {outgoing}"
    app = write_app(tmp_path / "app", directive(kafka_server, incoming, keys, connection), ("c", "hello"))

    def feed(producer: KafkaProducer, start: int) -> None:
        for number in range(start, start + count):
            producer.send(incoming, b"%d" % number, key=b"%d" % (number % 7), partition=number % 2)
        producer.flush(30)

    def done(total: int) -> bool:
        return sum(committed(kafka_server, incoming, incoming).values()) == total

    producer = KafkaProducer(bootstrap_servers=kafka_server.address())
    with Farm(app) as farm:
        feed(producer, 0)
        wait_for(lambda: len(read_all(kafka_server, outgoing)) > count // 10)
        os.kill(farm.children()[0], signal.SIGKILL)
        wait_for(lambda: done(count), otherwise=farm.tail)
        outputs = read_all(kafka_server, outgoing)
        assert {one.value for one in outputs} == {b"hello, %d" % number for number in range(count)}
        assert len(outputs) - count <= IN_FLIGHT
        assert all(one.key == b"%d" % (int(one.value[7:]) % 7) for one in outputs)

        write_directive(app, directive(kafka_server, incoming, keys + "\n    timeout: 9s", connection))
        os.kill(farm.pid, signal.SIGHUP)
        feed(producer, count)
        farm.wait_log(message="reload: in force")
        wait_for(lambda: done(2 * count), otherwise=farm.tail)
        later = read_all(kafka_server, outgoing)
        assert {one.value for one in later} == {b"hello, %d" % number for number in range(2 * count)}
        assert len(later) == len(outputs) + count, "of a reload nothing comes twice"
        assert not farm.log(message="connection closed")
    producer.close()


@pytest.mark.parametrize("driver", ["kafka-python", "librdkafka"])
def test_a_worker_that_goes_for_good_leaves_its_group(tmp_path: Path, kafka_server: KafkaServer, driver: str) -> None:
    """By a reload to fewer workers, and by the end of the farm: nobody waits for its session to end. Those that only
    get a new process stay."""
    topic, outgoing = new_topic(kafka_server, partitions=2), new_topic(kafka_server)
    connection = f"brokerAddress: {kafka_server.address()}, driver: {driver}"
    keys = f"group: {topic}\n    respondTo: {outgoing}\n    workers: "
    app = write_app(tmp_path / "app", directive(kafka_server, topic, keys + "2", connection), ("c", "hello"))
    with Farm(app) as farm:
        both = members(kafka_server, topic)
        assert [one[-2:] for one in both] == [".0", ".1"]
        write_directive(app, directive(kafka_server, topic, keys + "1", connection))
        os.kill(farm.pid, signal.SIGHUP)
        farm.wait_log(message="reload: in force")
        began = time.monotonic()
        for partition in (0, 1):
            write(kafka_server, topic, [b"x"], partition=partition)
        wait_for(lambda: len(read_all(kafka_server, outgoing)) == 2, otherwise=farm.tail)
        assert members(kafka_server, topic) == both[:1]
        assert time.monotonic() - began < SESSION_S / 2
    assert members(kafka_server, topic) == []


@pytest.mark.parametrize("driver", ["kafka-python", "librdkafka"])
def test_a_handler_that_is_paused_restarted_and_scaled(tmp_path: Path, kafka_server: KafkaServer, driver: str) -> None:
    """Paused, it has committed what it had and begins nothing, over a kill and a restart of its processes; then it is
    resumed, restarted, scaled up and down. Each record comes out, and once."""
    topic, outgoing, fed = new_topic(kafka_server, partitions=4), new_topic(kafka_server), 0
    connection = f"brokerAddress: {kafka_server.address()}, driver: {driver}"
    keys = f"group: {topic}\n    respondTo: {outgoing}\n    workers: 2"
    app = write_app(tmp_path / "app", directive(kafka_server, topic, keys, connection), ("c", "hello"))

    def feed() -> None:
        nonlocal fed
        for number in range(fed, fed + 200):
            producer.send(topic, b"%d" % number, partition=number % 4)
        producer.flush(30)
        fed += 200

    def done() -> int:
        return sum(committed(kafka_server, topic, topic).values())

    producer = KafkaProducer(bootstrap_servers=kafka_server.address())
    with Farm(app) as farm:

        def operate(*arguments: str) -> str:
            result = farm.operate(*arguments)
            assert result.exit_code == 0, (result.stderr, farm.tail())
            return result.stdout

        def state(report: str) -> tuple[str, int]:
            (shown,) = json.loads(report)["handlers"]
            return shown["state"], shown["ready"]

        def serves() -> None:
            feed()
            wait_for(lambda: done() == fed, otherwise=farm.tail)

        feed()
        wait_for(lambda: done() > 0, otherwise=farm.tail)
        assert operate("drain", topic) == f"drained {topic}\n"
        stands_at = len(read_all(kafka_server, outgoing))
        wait_for(lambda: done() == stands_at, otherwise=farm.tail)
        feed()
        os.kill(farm.children()[0], signal.SIGKILL)
        assert operate("restart", topic) == f"restarted {topic}: 2 started, 2 ended\n"
        wait_for(lambda: state(operate("status", "--json")) == ("paused", 2), otherwise=farm.tail)
        assert len(read_all(kafka_server, outgoing)) == done() == stands_at
        assert operate("resume", topic) == f"resumed {topic}\n"
        serves()
        assert operate("restart", topic) == f"restarted {topic}: 2 started, 2 ended\n"
        serves()
        assert operate("scale", topic, "4") == f"scaled {topic}: 2 started, 0 ended\n"
        serves()
        assert operate("scale", topic, "1") == f"scaled {topic}: 0 started, 3 ended\n"
        serves()
    producer.close()
    values = [one.value for one in read_all(kafka_server, outgoing)]
    assert sorted(values) == sorted(b"hello, %d" % number for number in range(fed))


@pytest.mark.parametrize("driver", ["kafka-python", "librdkafka"])
def test_every_codec_and_an_output_that_is_too_large(tmp_path: Path, kafka_server: KafkaServer, driver: str) -> None:
    """Producers choose the codec. The one output that its topic does not take is a dead letter, with its reason; all
    others come out, in order."""
    codecs = (None, "gzip", "snappy", "lz4", "zstd")
    topic, outgoing, dead = (new_topic(kafka_server, **keys) for keys in ({}, {"max_message_bytes": 2000}, {}))
    large = os.urandom(2000).hex().encode()
    values = [b"%a %d" % (codec, number) for codec in codecs for number in range(20)]
    for number, codec in enumerate(codecs):
        write(kafka_server, topic, values[20 * number :][:20], compression_type=codec)
        if codec == "gzip":
            write(kafka_server, topic, [large], compression_type=codec)
    connection = f"brokerAddress: {kafka_server.address()}, driver: {driver}"
    keys = f"group: {topic}\n    respondTo: {outgoing}\n    deadLetter: {{resource: {dead}}}"
    app = write_app(tmp_path / "app", directive(kafka_server, topic, keys, connection), ("c", "hello"))
    with Farm(app) as farm:
        wait_for(lambda: committed(kafka_server, topic, topic) == {0: 101}, otherwise=farm.tail)
        (failed,) = farm.log(message="message failed")
        assert f"are more than topic '{outgoing}' takes (max.message.bytes)" in failed["reason"]
        assert failed["attempt"] == 1
    assert [one.value for one in read_all(kafka_server, outgoing)] == [b"hello, " + value for value in values]
    assert [one.value for one in read_all(kafka_server, dead)] == [large]


@pytest.mark.parametrize("driver", ["kafka-python", "librdkafka"])
def test_a_topic_that_is_deleted_while_the_farm_runs(tmp_path: Path, kafka_server: KafkaServer, driver: str) -> None:
    """The farm says so and what to do, lives on in the same processes, and reads the topic when it is made anew."""
    topic, outgoing = new_topic(kafka_server), new_topic(kafka_server)
    connection = f"brokerAddress: {kafka_server.address()}, driver: {driver}"
    keys = f"group: {topic}\n    deadLetter: off\n    respondTo: {outgoing}"
    app = write_app(tmp_path / "app", directive(kafka_server, topic, keys, connection), ("c", "hello"))
    with Farm(app) as farm:
        write(kafka_server, topic, [b"1", b"2"])
        wait_for(lambda: committed(kafka_server, topic, topic) == {0: 2}, otherwise=farm.tail)
        children = farm.children()
        delete_topic(kafka_server, topic)
        said = farm.wait_log(message="waiting for kafka default")["reason"]
        assert f"topic '{topic}' does not exist" in said and "--create" in said
        create_topic(kafka_server, topic)
        write(kafka_server, topic, [b"3"])
        wait_for(lambda: len(read_all(kafka_server, outgoing)) == 3, otherwise=farm.tail)
        assert farm.children() == children and not farm.log(message="connection closed")
    assert [one.value for one in read_all(kafka_server, outgoing)] == [b"hello, 1", b"hello, 2", b"hello, 3"]


@pytest.mark.parametrize(
    ("connection", "message", "said"),
    [
        ("", "worker ended", "kafka default: topic 'no-such-topic' does not exist"),
        (
            "securityProtocol: SASL_PLAINTEXT, sasl: {mechanism: PLAIN, username: u, password: geheim}",
            "waiting for kafka default",
            "the broker refuses the login of 'u'",
        ),
    ],
    ids=["topic", "credentials"],
)
def test_what_cannot_work_is_said_in_one_line(
    tmp_path: Path, kafka_server: KafkaServer, connection: str, message: str, said: str
) -> None:
    """A topic that is not there ends the boot; wrong credentials are waited for, as they may be put right."""
    if connection:
        connection = f"brokerAddress: {kafka_server.address('SASL_PLAINTEXT')}, {connection}"
    text = directive(kafka_server, "no-such-topic", "deadLetter: off", connection)
    farm = Farm(write_app(tmp_path / "app", text, ("c", "hello"))).start()
    try:
        reason = farm.wait_log(message=message)["reason"]
        assert said in reason
        assert "\n" not in reason and "geheim" not in reason
    finally:
        farm.__exit__()
