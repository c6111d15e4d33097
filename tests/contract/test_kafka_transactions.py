"""Transactions of a Kafka client library, on a real broker: the same tests for every driver."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from atmo_farm.streams.kafka import kafka_python_transactions, librdkafka_transactions
from atmo_farm.streams.kafka.driver import BrokerRefused, BrokerUnavailable, Consumer, Fenced, Rebalanced, Transactions
from atmo_farm.streams.kafka.writing import Batch, Transactional
from tests.farm import wait_for
from tests.kafka import Rebalances, committed, new_name, new_topic, poll_until, read_all, total, write
from tests.kafka_clients import Clients, outgoing
from tests.servers.kafka import KafkaServer

TOO_LARGE = b"x" * 5000
"""For a topic with `max.message.bytes` of 3000."""


class Input:
    """A topic with ten records in each partition, and a member of a group that has read them all."""

    def __init__(self, clients: Clients, partitions: int = 1):
        self.clients = clients
        self.group = new_name("group")
        self.topic = new_topic(clients.server, partitions)
        for number in range(partitions):
            write(clients.server, self.topic, [b"in"] * 10, number)
        self.rebalances = Rebalances()
        self.consumer = self.member(self.rebalances)
        poll_until(self.consumer, lambda found: total(found) == 10 * partitions)

    def member(self, listener: Rebalances | None = None, instance_id: str = "") -> Consumer:
        """One more of the group."""
        return self.clients.consumer(self.topic, self.group, listener, instance_id=instance_id)

    def run(self, transactions: Transactions, offset: int, *outputs: tuple[str, bytes]) -> dict[bytes, str]:
        """Outputs, topic and value, and an offset of partition 0; returns what was refused, and with which words."""
        records = [outgoing(topic, value) for topic, value in outputs]
        member = self.consumer.standing().member
        refused = transactions.run(records, self.topic, {0: offset}, member)
        return {record.value or b"": str(error) for record, error in refused}

    def committed(self, wanted: dict[int, int]) -> bool:
        """By partition. The broker shows it a moment after it has answered."""
        return bool(wait_for(lambda: committed(self.clients.server, self.group, self.topic) == wanted))


def written(clients: Clients, topic: str, *wanted: bytes) -> bool:
    """What a reader sees that waits for transactions, a moment after the broker has answered; in any order."""
    return bool(wait_for(lambda: sorted(one.value or b"" for one in read_all(clients.server, topic)) == sorted(wanted)))


class TestOutcomes:
    def test_outputs_and_offsets_are_there_together(self, clients: Clients) -> None:
        """One transaction after the other, in two topics, and also of offsets alone."""
        source, transactions = Input(clients), clients.transactions()
        first, second = new_topic(clients.server, 3), new_topic(clients.server)
        assert source.consumer.standing().partitions == {0}
        assert source.run(transactions, 2, (first, b"a"), (second, b"b")) == {}
        assert source.committed({0: 2})
        assert source.run(transactions, 3, (first, b"c")) == {} and source.run(transactions, 5) == {}
        assert source.committed({0: 5})
        assert written(clients, first, b"a", b"c") and written(clients, second, b"b")
        assert transactions.trouble() == ""

    def test_a_record_that_is_too_large_undoes_all_of_it(self, clients: Clients) -> None:
        """It is among those that are named, alone if it is alone; the next transaction is as any."""
        source, transactions = Input(clients), clients.transactions()
        small, beside = new_topic(clients.server, max_message_bytes=3000), new_topic(clients.server)
        refused = source.run(transactions, 1, (beside, b"a"), (small, b"b"), (small, TOO_LARGE))
        assert "5000 bytes are more than" in refused[TOO_LARGE] and refused.keys() <= {b"a", b"b", TOO_LARGE}
        assert source.run(transactions, 1, (small, TOO_LARGE)).keys() == {TOO_LARGE}
        assert source.committed({}) and written(clients, small) and written(clients, beside)
        assert source.run(transactions, 2, (beside, b"c"), (small, b"d")) == {}
        assert written(clients, small, b"d") and source.committed({0: 2})

    def test_a_topic_that_nobody_knows(self, clients: Clients) -> None:
        """It is told of those for that topic, and soon."""
        source, transactions, there = Input(clients), clients.transactions(), new_topic(clients.server)
        began = time.monotonic()
        refused = source.run(transactions, 1, (there, b"a"), ("no-such-topic", b"b"), ("no-such-topic", b"c"))
        assert refused.keys() == {b"b", b"c"} and "does not exist" in refused[b"b"]
        assert time.monotonic() - began < 10
        assert "cannot publish on topic" in source.run(transactions, 1, ("not/legal", b"d"))[b"d"]
        assert source.run(transactions, 2, (there, b"e")) == {} and written(clients, there, b"e")


class TestFencing:
    def test_who_comes_later_with_the_same_id_has_it(self, clients: Clients) -> None:
        """Whatever the first one does then, it is told, writes nothing and does not take the id back."""
        source, name, topic = Input(clients), new_name("id"), new_topic(clients.server)
        first = clients.transactions(name)
        source.run(first, 1, (topic, b"a"))
        second = clients.transactions(name)
        for outputs in ([(topic, b"zombie")], []):
            with pytest.raises(Fenced):
                source.run(first, 9, *outputs)
            assert source.run(second, 2, (topic, b"b")) == {}
            first = second
            second = clients.transactions(name)
        assert source.committed({0: 2}) and written(clients, topic, b"a", b"b", b"b")

    def test_a_member_of_an_older_generation_commits_nothing(self, clients: Clients) -> None:
        """Another one may have its partition."""
        source, transactions, topic = Input(clients), clients.transactions(), new_topic(clients.server)
        stale = source.consumer.standing().member
        other = source.member()
        deadline = time.monotonic() + 20
        while not other.joined():  # both have to poll
            assert time.monotonic() < deadline
            source.consumer.poll(0.05)
            other.poll(0.05)
        with pytest.raises(Rebalanced):
            transactions.run([outgoing(topic, b"a")], source.topic, {0: 9}, stale)
        assert source.committed({}) and written(clients, topic)
        if 0 in source.consumer.standing().partitions:
            assert source.run(transactions, 3, (topic, b"b")) == {} and source.committed({0: 3})

    def test_partitions_of_a_standing_are_no_other_members(self, clients: Clients) -> None:
        """Over rebalances, whenever one asks: what a member has of its standing is of its generation alone."""
        source, topic = Input(clients, partitions=4), new_topic(clients.server)
        members = [source.consumer, source.member(), source.member()]
        each = [clients.transactions() for _ in members]
        deadline, done, sizes = time.monotonic() + 30, 0, set[int]()
        position = dict.fromkeys(range(4), 0)
        while done < 60 or len(sizes) < 2:
            assert time.monotonic() < deadline, (done, sizes)
            for member, transactions in zip(members, each, strict=True):
                member.poll(0.02)
                standing = member.standing()
                sizes.add(len(standing.partitions))
                for partition in standing.partitions:
                    offset = position[partition] + 1
                    try:
                        transactions.run([outgoing(topic, b"x")], source.topic, {partition: offset}, standing.member)
                    except Rebalanced:
                        break
                    position[partition], done = offset, done + 1
        assert source.committed({number: at for number, at in position.items() if at})
        assert written(clients, topic, *[b"x"] * done)


KILLED = """
import os, signal, sys
from atmo_farm.streams.kafka import drivers, kafka_python_transactions, librdkafka_transactions
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.options import options
from atmo_farm.directive.connections import KafkaConnection
from tests.kafka_clients import outgoing
from tests.farm import wait_for
from tests.kafka import Rebalances, poll_until, total
name, address, topic, group, target, transactional_id = sys.argv[1:]
driver = drivers.choose(name)
given = options(KafkaConnection("default", (address,)), "tests")
consumer = driver.consumer(given, topic, Membership(group, "", "earliest", 6.0), Rebalances())
poll_until(consumer, lambda found: total(found) == 10)
transactions = driver.transactions(given, transactional_id)
transactions._commit = lambda: os.kill(os.getpid(), signal.SIGKILL)
transactions.run([outgoing(target, b"undone")], topic, {0: 7}, consumer.standing().member)
"""


class TestDeaths:
    def test_what_a_killed_process_had_begun_is_undone_by_the_next(self, clients: Clients) -> None:
        """At once: till then nobody is told where the partition goes on, and none sees what was written behind."""
        topic, target, group, name = (new_topic(clients.server), new_topic(clients.server), new_name(), new_name("id"))
        write(clients.server, topic, [b"in"] * 10)
        command = (clients.driver.name, clients.server.address(), topic, group, target, name)
        killed = subprocess.run([sys.executable, "-c", KILLED, *command], timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL
        began = time.monotonic()
        transactions = clients.transactions(name)
        consumer = clients.consumer(topic, group)
        found = poll_until(consumer, lambda found: total(found) == 10, within_s=20)
        assert [one.offset for one in found[0]] == list(range(10))
        assert time.monotonic() - began < 15  # the session of a member without an id of its own, and not 45 s
        assert transactions.run([outgoing(target, b"done")], topic, {0: 10}, consumer.standing().member) == []
        assert written(clients, target, b"done") and wait_for(
            lambda: committed(clients.server, group, topic) == {0: 10}
        )

    @pytest.mark.parametrize("start_at", ["earliest", "latest"])
    def test_who_gets_the_partition_first_waits_for_that(self, clients: Clients, start_at: str) -> None:
        """The broker tells nobody where it goes on until the dead one's transaction is undone, which may take 45 s."""
        source, name, topic = Input(clients), new_name("id"), new_topic(clients.server)
        transactions = clients.transactions(name)
        assert source.run(transactions, 4, (topic, b"a")) == {}

        def die() -> None:
            raise SystemExit

        transactions._commit = die  # type: ignore[attr-defined]
        with pytest.raises(SystemExit):
            source.run(transactions, 7, (topic, b"undone"))
        source.consumer.close()
        clients.made.remove(source.consumer)
        heir = clients.consumer(source.topic, source.group, start_at=start_at)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            assert not heir.poll(0.1)
        clients.transactions(name)
        found = poll_until(heir, lambda found: total(found) >= 6)
        assert [one.offset for one in found[0]] == list(range(4, 10)) and written(clients, topic, b"a")

    def test_what_a_living_process_has_begun_in_vain_is_undone_also_if_it_has_nothing_more_to_do(
        self, clients: Clients
    ) -> None:
        """Its partition is another's now: nobody may wait 45 s for who has no record to write."""
        source, topic, told = Input(clients), new_topic(clients.server), list[object]()
        old = source.consumer.standing()
        other = source.member()
        deadline = time.monotonic() + 20
        while not other.joined():
            assert time.monotonic() < deadline
            source.consumer.poll(0.05)
            other.poll(0.05)
        writer = Transactional(
            clients.driver,
            clients.options(),
            new_name("id"),
            source.topic,
            lambda: old,
            lambda *what: told.append(what),
        )
        writer.begin(Batch({0: 5}, {0: [outgoing(topic, b"in vain")]}, 0))
        assert not writer.write() and not told
        writer.revoked()
        assert writer.write() and told == [({}, [])]
        assert not writer.write()
        write(clients.server, topic, [b"another's"])
        assert written(clients, topic, b"another's")
        writer.close()


class TestOutages:
    def test_a_broker_that_is_silent(
        self, clients: Clients, start_kafka: Callable[[str], KafkaServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is waited for so long; before the commit nothing is lost, and all of it goes again; after that, nobody
        knows, and a new process has to go on."""
        for module in (kafka_python_transactions, librdkafka_transactions):
            monkeypatch.setattr(module, "TRANSACTION_WITHIN_S", 1.0)
            monkeypatch.setattr(module, "DECIDED_WITHIN_S", 1.0)
        server = start_kafka("")
        own = Clients(clients.driver, server, clients.made)
        source, transactions, topic = Input(own), own.transactions(), new_topic(server)
        assert source.run(transactions, 1, (topic, b"a")) == {}
        member = source.consumer.standing().member
        server.pause()
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            transactions.run([outgoing(topic, b"b")], source.topic, {0: 2}, member)
        assert time.monotonic() - began < 10
        server.resume()
        deadline = time.monotonic() + 30
        while True:
            try:
                assert transactions.run([outgoing(topic, b"c")], source.topic, {0: 3}, member) == []
                break
            except BrokerUnavailable:
                assert time.monotonic() < deadline
        assert written(own, topic, b"a", b"c") and source.committed({0: 3})
        commit = transactions._commit  # type: ignore[attr-defined]

        def silent() -> None:
            server.pause()
            commit()

        monkeypatch.setattr(transactions, "_commit", silent)
        with pytest.raises(BrokerRefused, match="not known whether"):
            transactions.run([outgoing(topic, b"d")], source.topic, {0: 4}, member)
        server.resume()
