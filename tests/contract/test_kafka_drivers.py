"""What the stream asks of a Kafka client library, on a real broker: the same tests for every driver.

Among them are the faults of kafka-python 3.0.12 that its driver guards against (marked with their numbers of
docs/decisions): no other library may have them either.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from atmo_farm.streams.kafka import admin, kafka_python_client, kafka_python_producer, librdkafka_client
from atmo_farm.streams.kafka.driver import BrokerUnavailable, Consumer, Driver, Fenced, Producer, Result
from atmo_farm.streams.kafka.membership import Membership, static_id
from atmo_farm.streams.kafka.options import options
from tests.kafka import (
    Rebalances,
    committed,
    delete_records,
    delete_topic,
    new_name,
    new_topic,
    poll_until,
    read_all,
    total,
    write,
)
from tests.kafka_clients import Clients, outgoing
from tests.servers.kafka import KafkaServer

VALUES = [b"%d" % number for number in range(100)]


def flushed(producer: Producer, count: int, within_s: float = 20.0) -> list[Result]:
    """The results of so many records, however many flushes they take."""
    results: list[Result] = []
    deadline = time.monotonic() + within_s
    while len(results) < count:
        assert time.monotonic() < deadline, f"{len(results)} of {count}"
        results += producer.flush(1.0)
    assert len(results) == count
    return results


def problem(results: list[Result], token: bytes) -> tuple[str, bool] | None:
    """Of the one record with this token: the error's words and whether it is transient; None if it was accepted."""
    (error,) = [error for record, error in results if record.token == token]
    return None if error is None else (str(error), error.transient)


class TestConsuming:
    def test_records_arrive_in_order_with_all_they_have(self, clients: Clients) -> None:
        """Key, value, headers, offset and timestamp; null and empty values are two things."""
        topic, producer = new_topic(clients.server), clients.producer()
        before_ms = time.time_ns() // 10**6
        producer.send(outgoing(topic, b"one", b"k\x00", trace=b"\xff\x00"))
        producer.send(outgoing(topic, b"", b""))
        flushed(producer, 2)
        write(clients.server, topic, [b"three"])
        found = poll_until(clients.consumer(topic), lambda found: total(found) == 3)[0]
        assert [one.offset for one in found] == [0, 1, 2]
        assert [(one.key, one.value) for one in found] == [(b"k\x00", b"one"), (b"", b""), (None, b"three")]
        assert list(found[0].headers) == [("trace", b"\xff\x00")]
        assert before_ms <= found[0].timestamp <= found[1].timestamp <= time.time_ns() // 10**6

    @pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
    def test_every_codec_is_read(self, clients: Clients, codec: str) -> None:
        """Producers choose the codec, not we."""
        topic = new_topic(clients.server)
        write(clients.server, topic, VALUES, compression_type=codec)
        found = poll_until(clients.consumer(topic), lambda found: total(found) == len(VALUES))
        assert [one.value for one in found[0]] == VALUES

    def test_a_new_group_begins_where_it_is_told(self, clients: Clients) -> None:
        """At the earliest record, at the end, or at the first one that is not older than a moment."""
        topic = new_topic(clients.server)
        write(clients.server, topic, [b"old"])
        time.sleep(0.02)
        moment_s = time.time()
        time.sleep(0.02)
        write(clients.server, topic, [b"new"])
        everything = clients.consumer(topic, start_at="earliest")
        assert [one.value for one in poll_until(everything, lambda found: total(found) == 2)[0]] == [b"old", b"new"]
        since = clients.consumer(topic, start_at=moment_s)
        assert [one.value for one in poll_until(since, lambda found: total(found) == 1)[0]] == [b"new"]
        nothing = clients.consumer(topic, start_at="latest")
        deadline = time.monotonic() + 20
        while not (found := nothing.poll(0.2)):  # where it begins is told only by what comes
            assert time.monotonic() < deadline
            write(clients.server, topic, [b"newest"])
        assert {one.value for one in found[0]} == {b"newest"}

    @pytest.mark.parametrize("start_at", ["latest", 4_000_000_000.0])
    def test_a_group_that_begins_at_the_end_has_begun_when_it_has_joined(
        self, clients: Clients, start_at: object
    ) -> None:
        """What comes after its first member has died, before that has committed anything, is read by the next one."""
        topic, group = new_topic(clients.server, partitions=2), new_name("group")
        write(clients.server, topic, [b"old"])
        first = clients.consumer(topic, group, start_at=start_at)
        poll_until(first, lambda _: committed(clients.server, group, topic) == {0: 1, 1: 0})
        first.close()
        write(clients.server, topic, [b"new"])
        found = poll_until(clients.consumer(topic, group, start_at=start_at), lambda found: total(found) == 1)
        assert [one.value for one in found[0]] == [b"new"]

    @pytest.mark.parametrize("start_at", ["earliest", "latest", 4_000_000_000.0])
    def test_a_place_that_is_deleted_is_followed_by_what_is_there(self, clients: Clients, start_at: object) -> None:
        """However the group had begun."""
        topic, group = new_topic(clients.server), new_name("group")
        write(clients.server, topic, VALUES)
        first = clients.consumer(topic, group, start_at="earliest")
        poll_until(first, lambda found: total(found) == len(VALUES))
        poll_until(first, lambda _: first.commit({0: 10}) and committed(clients.server, group, topic) == {0: 10})
        first.close()
        delete_records(clients.server, topic, before=90)
        found = poll_until(clients.consumer(topic, group, start_at=start_at), lambda found: total(found) == 10)
        assert [one.value for one in found[0]] == VALUES[90:]

    def test_who_comes_after_goes_on_from_what_was_committed(self, clients: Clients) -> None:
        """Also where that is in the middle of what was read."""
        topic, group = new_topic(clients.server), new_name("group")
        write(clients.server, topic, VALUES)
        listener = Rebalances()
        first = clients.consumer(topic, group, listener)
        poll_until(first, lambda found: total(found) == len(VALUES))
        assert first.commit({0: 40})
        poll_until(first, lambda _: listener.commits == {0: 40})
        assert committed(clients.server, group, topic) == {0: 40}
        first.close()
        found = poll_until(clients.consumer(topic, group), lambda found: total(found) == 60)
        assert [one.value for one in found[0]] == VALUES[40:]

    def test_lag_is_what_has_not_been_returned(self, clients: Clients) -> None:
        """By partition."""
        topic = new_topic(clients.server, partitions=2)
        write(clients.server, topic, VALUES, partition=1)
        consumer = clients.consumer(topic)
        poll_until(consumer, lambda found: total(found) == len(VALUES))
        consumer.pause([1])
        write(clients.server, topic, VALUES[:3], partition=0)
        poll_until(consumer, lambda found: total(found) == 3)
        assert consumer.lag() == {0: 0, 1: 0}


class TestPausing:
    def test_a_paused_partition_waits_and_the_others_go_on(self, clients: Clients) -> None:
        """Nothing of it comes until it is resumed, then all of it, in order."""
        topic = new_topic(clients.server, partitions=2)
        listener = Rebalances()
        consumer = clients.consumer(topic, listener=listener)
        poll_until(consumer, lambda _: len(listener.ours) == 2)
        consumer.pause([0])
        write(clients.server, topic, VALUES, partition=0)
        write(clients.server, topic, VALUES, partition=1)
        found = poll_until(consumer, lambda found: total(found) == len(VALUES))
        assert found.keys() == {1}
        consumer.resume([0])
        found = poll_until(consumer, lambda found: total(found) == len(VALUES))
        assert [one.value for one in found[0]] == VALUES

    def test_a_partition_paused_with_unread_records_goes_on_when_it_is_resumed(self, clients: Clients) -> None:
        """(1) Also after another one was read to the end meanwhile."""
        topic = new_topic(clients.server, partitions=3)
        for partition in range(3):
            write(clients.server, topic, [b"x" * 100] * 5000, partition)
        consumer = clients.consumer(topic)
        counts = dict.fromkeys(range(3), 0)
        deadline = time.monotonic() + 30
        first = -1
        while sum(counts.values()) < 15_000:
            assert time.monotonic() < deadline, counts
            for partition, records in consumer.poll(0.2).items():
                counts[partition] += len(records)
                if first < 0:
                    first = partition
                    consumer.pause([first])
            others = sum(count for partition, count in counts.items() if partition != first)
            if first >= 0 and others == 10_000:
                consumer.resume([first])
        assert set(counts.values()) == {5000}

    def test_pausing_what_is_not_ours_is_no_error(self, clients: Clients) -> None:
        """It may have been taken away a moment ago."""
        consumer = clients.consumer(new_topic(clients.server))
        consumer.pause([0, 7])
        consumer.resume([0, 7])


class TestGroups:
    def test_partitions_move_to_a_new_member_and_back(self, clients: Clients) -> None:
        """Who keeps a partition is not told of it, and goes on reading it without a gap."""
        topic, group = new_topic(clients.server, partitions=4), new_name("group")
        mine, others = Rebalances(), Rebalances()
        first = clients.consumer(topic, group, mine)
        poll_until(first, lambda _: len(mine.ours) == 4)
        with polling(clients, topic, group, others) as second:
            poll_until(first, lambda _: len(mine.ours) == 2 and len(others.ours) == 2)
            assert mine.ours | others.ours == {0, 1, 2, 3}
            assert [kind for kind, _ in mine.told] == ["assigned", "revoked"]
            second.set()
            poll_until(first, lambda _: len(mine.ours) == 4)

    def test_who_never_waits_in_a_poll_joins_as_well(self, clients: Clients) -> None:
        """(13) A busy owner polls without waiting, and writes in between: a join that ends meanwhile counts."""
        topic, group = new_topic(clients.server, partitions=2), new_name("group")
        both = Rebalances(), Rebalances()
        members = [clients.consumer(topic, group, listener) for listener in both]
        deadline = time.monotonic() + 20
        while not all(len(listener.ours) == 1 for listener in both):
            assert time.monotonic() < deadline, [listener.told for listener in both]
            for member in members:
                member.poll(0)
                time.sleep(0.1)
        assert sum(len(listener.told) for listener in both) <= 4, "each partition has moved once at most"

    def test_a_commit_amid_a_rebalance_is_no_error(self, clients: Clients) -> None:
        """(2) It is not taken, and is made again after the next poll. Each that was begun is answered."""
        topic, group = new_topic(clients.server, partitions=2), new_name("group")
        write(clients.server, topic, VALUES)
        mine, others, begun = Rebalances(), Rebalances(), 0
        first = clients.consumer(topic, group, mine)
        poll_until(first, lambda found: total(found) == len(VALUES))
        with polling(clients, topic, group, others):
            deadline = time.monotonic() + 20
            while not others.ours:
                assert time.monotonic() < deadline
                begun += first.commit(dict.fromkeys(mine.ours, 50))
                first.poll(0.01)
            poll_until(first, lambda _: mine.answers == begun)
            kept = next(iter(mine.ours))
            poll_until(first, lambda _: first.commit({kept: 7}) and mine.commits.get(kept) == 7)
        assert committed(clients.server, group, topic)[kept] == 7

    def test_a_static_member_comes_back_to_its_partitions(self, clients: Clients) -> None:
        """Nothing is rebalanced for the others, and nobody waits for its session to end."""
        topic, group = new_topic(clients.server, partitions=2), new_name("group")
        mine, others = Rebalances(), Rebalances()
        with polling(clients, topic, group, others, instance_id="b"):
            first = clients.consumer(topic, group, mine, instance_id="a")
            poll_until(first, lambda _: len(mine.ours) == 1 and len(others.ours) == 1)
            told, had = list(others.told), set(mine.ours)
            first.close()
            began = time.monotonic()
            again = Rebalances()
            second = clients.consumer(topic, group, again, instance_id="a")
            poll_until(second, lambda _: bool(again.ours))
            assert again.ours == had
            assert others.told == told
            assert time.monotonic() - began < 5.0

    def test_a_static_member_that_has_gone_for_good_is_removed(self, clients: Clients) -> None:
        """The others have its partitions at once, and do not wait for its session to end."""
        topic, group = new_topic(clients.server, partitions=2), new_name("group")
        mine, others = Rebalances(), Rebalances()
        gone = static_id("com.acme.app", "orders", "1f", 1)
        first = clients.consumer(topic, group, mine, instance_id=static_id("com.acme.app", "orders", "1f", 0))
        with polling(clients, topic, group, others, instance_id=gone):
            poll_until(first, lambda _: len(mine.ours) == 1 and len(others.ours) == 1)
        began = time.monotonic()
        assert admin.remove_member(clients.options(), group, gone)
        poll_until(first, lambda _: len(mine.ours) == 2)
        assert time.monotonic() - began < 5.0
        assert not admin.remove_member(clients.options(), group, gone)

    def test_a_consumer_that_does_not_poll_is_no_member(self, clients: Clients) -> None:
        """It puts nobody out: a process that waits for its place has one."""
        topic, group = new_topic(clients.server), new_name("group")
        write(clients.server, topic, VALUES)
        listener = Rebalances()
        first = clients.consumer(topic, group, listener, instance_id="same")
        poll_until(first, lambda found: total(found) == len(VALUES))
        clients.consumer(topic, group, instance_id="same")
        for offset in range(1, 9):
            poll_until(first, lambda _, offset=offset: first.commit({0: offset}) and listener.commits == {0: offset})

    def test_a_fenced_static_member_is_told_by_its_commit(self, clients: Clients) -> None:
        """(6) It may go on reading until then."""
        topic, group = new_topic(clients.server), new_name("group")
        write(clients.server, topic, VALUES)
        first = clients.consumer(topic, group, instance_id="same")
        poll_until(first, lambda found: total(found) == len(VALUES))
        listener = Rebalances()
        second = clients.consumer(topic, group, listener, instance_id="same")
        poll_until(second, lambda found: total(found) == len(VALUES))
        with pytest.raises(Fenced, match="another process"):
            for _ in range(20):
                first.commit({0: 10})
                first.poll(0.1)
        assert second.commit({0: 20})
        poll_until(second, lambda _: listener.commits == {0: 20})
        assert committed(clients.server, group, topic) == {0: 20}

    def test_a_client_works_in_a_process_that_was_forked(self, clients: Clients) -> None:
        """(8) It is made there; what the parent had open stays the parent's."""
        topic = new_topic(clients.server)
        write(clients.server, topic, VALUES)
        poll_until(clients.consumer(topic), lambda found: total(found) == len(VALUES))
        producer = clients.producer()
        child = multiprocessing.get_context("fork").Process(target=echo, args=(clients.driver, clients.server, topic))
        child.start()
        child.join(20)
        assert child.exitcode == 0
        producer.send(outgoing(topic, b"parent's"))
        assert problem(flushed(producer, 1), b"parent's") is None
        assert [one.value for one in read_all(clients.server, topic)] == [*VALUES, b"child's", b"parent's"]


def echo(driver: Driver, server: KafkaServer, topic: str) -> None:
    """In a child: read all, write one."""
    ours = options(server.connection(), "child")
    with closing(driver.consumer(ours, topic, Membership(new_name("group"), "", "earliest"), Rebalances())) as consumer:
        poll_until(consumer, lambda found: total(found) == len(VALUES))
    with closing(driver.producer(ours)) as producer:
        producer.send(outgoing(topic, b"child's"))
        flushed(producer, 1)


class polling:  # noqa: N801
    """A second member that polls in a thread of its own; what is entered ends it, and it leaves the group."""

    def __init__(self, clients: Clients, topic: str, group: str, listener: Rebalances, instance_id: str = ""):
        self._stop = threading.Event()
        self._make: Callable[[], Consumer] = lambda: clients.driver.consumer(
            clients.options(), topic, Membership(group, instance_id, "earliest", 6.0), listener
        )
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> threading.Event:
        self._thread.start()
        return self._stop

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with closing(self._make()) as consumer:
            while not self._stop.is_set():
                consumer.poll(0.05)


class TestProducing:
    def test_what_was_accepted_is_there(self, clients: Clients) -> None:
        """Value, key and headers; records of one key in one partition, in their order."""
        topic, producer = new_topic(clients.server, partitions=3), clients.producer()
        for number in range(30):
            producer.send(outgoing(topic, b"%d" % number, b"%d" % (number % 3), name=b"v"))
        results = flushed(producer, 30)
        assert all(error is None for _, error in results)
        found = read_all(clients.server, topic)
        assert {one.headers["name"] for one in found} == {b"v"}
        for key in (b"0", b"1", b"2"):
            mine = [one for one in found if one.key == key]
            assert [int(one.value or b"") % 3 for one in mine] == [int(key)] * 10
            assert [int(one.value or b"") for one in mine] == sorted(int(one.value or b"") for one in mine)
            assert len({one.partition for one in mine}) == 1

    def test_a_record_that_is_too_large_harms_no_other(self, clients: Clients) -> None:
        """(3, 4) One clear error, for good; those beside it and after it are accepted."""
        topic = new_topic(clients.server, max_message_bytes=2000)
        other, producer = new_topic(clients.server), clients.producer()
        batch = [outgoing(topic, b"before"), outgoing(topic, b"too large!" * 500), outgoing(topic, b"after")]
        for record in (*batch, outgoing(other, b"elsewhere")):
            producer.send(record)
        results = flushed(producer, 4)
        assert problem(results, b"too large!") == (
            f"5000 bytes are more than topic {topic!r} takes (max.message.bytes)",
            False,
        )
        assert [problem(results, token) for token in (b"before", b"after", b"elsewhere")] == [None] * 3
        for record in (outgoing(topic, b"later"), outgoing(other, b"later too")):
            producer.send(record)
        assert [error for _, error in flushed(producer, 2)] == [None, None]
        assert sorted(one.value or b"" for one in read_all(clients.server, topic)) == [b"after", b"before", b"later"]

    def test_a_record_larger_than_any_broker_takes_is_refused_at_once(self, clients: Clients) -> None:
        """It never leaves the process."""
        topic, producer = new_topic(clients.server), clients.producer()
        producer.send(outgoing(topic, bytes(70 << 20)))
        producer.send(outgoing(topic, b"small"))
        results = flushed(producer, 2)
        assert problem(results, b"small") is None
        (error,) = [error for _, error in results if error]
        assert "are more than topic" in str(error) and not error.transient

    def test_an_unknown_topic_holds_nobody_up(self, clients: Clients) -> None:
        """(7) A few seconds for the first record, no time for the next; nothing else fails with it."""
        topic, producer = new_topic(clients.server), clients.producer()
        began = time.monotonic()
        for record in [outgoing("no-such-topic", b"%d" % number) for number in range(50)]:
            producer.send(record)
        producer.send(outgoing(topic, b"fine"))
        results = flushed(producer, 51)
        assert time.monotonic() - began < 6.0
        words, transient = problem(results, b"7") or ("", False)
        assert "topic 'no-such-topic' does not exist" in words and transient
        assert problem(results, b"fine") is None

    def test_a_topic_name_that_is_not_legal_is_an_error_for_good(self, clients: Clients) -> None:
        """Said of that record alone."""
        producer = clients.producer()
        producer.send(outgoing("not legal!", b"x"))
        words, transient = problem(flushed(producer, 1), b"x") or ("", True)
        assert "not legal!" in words and not transient


class TestTrouble:
    @pytest.mark.parametrize("outage", ["silent", "stopped", "no leader"])
    def test_an_outage_costs_no_cpu_time(
        self,
        clients: Clients,
        start_kafka: Callable[[str], KafkaServer],
        monkeypatch: pytest.MonkeyPatch,
        outage: str,
    ) -> None:
        """(Faults 14 and 15.) With a record to be sent, while requests time out, connections are made that nobody
        answers, or the broker has told, before it went, that there is no leader."""
        for library in (kafka_python_client, librdkafka_client):
            monkeypatch.setattr(library, "REQUEST_TIMEOUT_S", 1.0)
        server = start_kafka("")
        own = Clients(clients.driver, server, clients.made)
        producer, topic = own.producer(), new_topic(server)
        producer.send(outgoing(topic, b"one"))
        flushed(producer, 1)
        if outage == "silent":
            server.pause()
        else:
            server.stop()
        if outage == "no leader" and isinstance(producer, kafka_python_producer.KafkaPythonProducer):
            cluster = producer._producer._metadata
            monkeypatch.setattr(cluster, "leader_for_partition", lambda _: None)
        producer.send(outgoing(topic, b"two"))
        producer.flush(1.5)
        began_s, cpu_s = time.monotonic(), time.process_time()
        producer.flush(3.0)
        took_s, used_s = time.monotonic() - began_s, time.process_time() - cpu_s
        monkeypatch.undo()
        if outage == "silent":
            server.resume()
        else:
            server.start()
        assert took_s > 2.5 and used_s < took_s / 5
        assert [error for _, error in flushed(producer, 1)] == [None]

    def test_a_missing_topic_is_told(self, clients: Clients) -> None:
        """Of one that never was, and of one that is deleted under the consumer."""
        consumer = clients.consumer("never-was")
        consumer.poll(0.1)
        assert consumer.missing()
        topic = new_topic(clients.server)
        listener = Rebalances()
        there = clients.consumer(topic, listener=listener)
        poll_until(there, lambda _: bool(listener.ours))
        assert not there.missing()
        delete_topic(clients.server, topic)
        poll_until(there, lambda _: there.missing())

    @pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
    def test_logins_in_clear_and_in_tls(self, clients: Clients, mechanism: str) -> None:
        """By every mechanism that is served."""
        for protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
            topic = new_topic(clients.server)
            with closing(
                clients.driver.producer(clients.options(protocol=protocol, sasl_mechanism=mechanism))
            ) as producer:
                producer.send(outgoing(topic, b"x"))
                assert problem(flushed(producer, 1), b"x") is None

    @pytest.mark.parametrize(
        ("keys", "words"),
        [
            ({"protocol": "SASL_PLAINTEXT", "sasl_password": "canary-wrong"}, "wrong user name or password"),
            (
                {"protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_password": "canary-wrong"},
                "wrong user name or password",
            ),
            ({"protocol": "SASL_SSL", "sasl_username": "nobody"}, "wrong user name or password"),
            ({"protocol": "SSL", "tls": None}, "certificate is not accepted: "),
            ({"security_protocol": "", "protocol": "SSL", "tls": None}, "does it want TLS or a login|want TLS"),
            ({"broker_addresses": ("127.0.0.1:1",)}, "connection refused"),
            ({"broker_addresses": ("no-such-host.invalid:1",)}, "no address for the broker's name"),
        ],
    )
    def test_who_is_not_let_in_is_told_why(
        self, clients: Clients, keys: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In one line, without the password; no thread is left of the attempt."""
        for library in (kafka_python_client, librdkafka_client):
            monkeypatch.setattr(library, "BOOTSTRAP_TIMEOUT_S", 2.5 if keys.get("protocol") == "SASL_SSL" else 1.0)
        threads = threading.active_count()
        with pytest.raises(BrokerUnavailable, match=words) as raised:
            clients.driver.producer(clients.options(**keys))
        assert "canary" not in str(raised.value) and "\n" not in str(raised.value)
        assert threading.active_count() == threads
