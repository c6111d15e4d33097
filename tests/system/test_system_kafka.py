"""Faults of Kafka's handlers under load: nothing is lost, work is done again only for what was in flight."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.farm import add_module, busy_s, wait_for
from tests.kafka import members
from tests.servers.kafka import KafkaServer
from tests.servers.kafka_cluster import KafkaCluster
from tests.system.conftest import TestFarm
from tests.system.kafka_load import IN_FLIGHT, KEYS, PARTITIONS, Work, verify_order, waits

Amount = Callable[[int, int], int]
Figure = Callable[[str, object], None]
MakeFarm = Callable[..., TestFarm]
BY_LAST_DIGIT = waits("(i32.mul (i32.and (local.get $n) (i32.const 7)) (i32.const 3))")
"""0 to 21 ms: records that follow each other would overtake each other."""


@pytest.fixture
def work(kafka_server: KafkaServer, driver: str) -> Work:
    return Work.on(kafka_server, driver)


@pytest.mark.fault(row="kafka-kill-child", short="kafka-python")
@pytest.mark.timeout(900)
def test_kill_9_of_consumers(make_farm: MakeFarm, work: Work, amount: Amount, kafka_figure: Figure) -> None:
    """Each partition goes on within a second: the successor has its predecessor's place in the group."""
    kills = amount(2, 100)
    farm = work.serve(make_farm(), "fn: hello", "workers: 3")
    with farm, work.load(amount(80, 300)) as load:
        load.back_after_s()
        back = []
        for _ in range(kills):
            wait_for(lambda: len(farm.workers("work")) == 3)
            os.kill(farm.workers("work")[0], signal.SIGKILL)  # the oldest: each worker in turn
            back.append(load.back_after_s())
            time.sleep(amount(0, 1))
        ledger = load.finish()
        ledger.verify(repeated=kills * IN_FLIGHT)
        kafka_figure("kills", kills)
        kafka_figure("slowest return, s", max(back))
        kafka_figure("messages, none lost", len(ledger.published))
        kafka_figure("work done again", ledger.repeated)
        assert max(back) < amount(60, 1), "in the suite others have the cores"


@pytest.mark.fault(row="kafka-broker-outages", short="librdkafka")
@pytest.mark.timeout(900)
def test_a_broker_that_is_stopped_stands_or_is_killed(
    make_farm: MakeFarm, start_kafka: Callable[[], KafkaServer], driver: str, amount: Amount, kafka_figure: Figure
) -> None:
    """One outage after the other: it is noticed within 30 s, costs next to nothing, and work goes on within five
    seconds after its end."""
    server = start_kafka()
    work = Work.on(server, driver)
    farm = work.serve(make_farm(), "fn: hello", "workers: 2")
    with farm, work.load(amount(60, 200)) as load:
        outages = [
            ("stopped", server.stop, server.start, 10),
            ("half open", server.pause, server.resume, 30),
            ("killed", server.kill, server.start, 10),
            *amount((), (("stopped for long", server.stop, server.start, 200),)),  # type: ignore[misc, arg-type]
        ]
        for name, begin, end, seconds in outages:
            load.back_after_s()
            told, pids = farm.logged("waiting for kafka default"), (farm.pid, *farm.children())
            begin()
            try:
                time.sleep(amount(1, 2))  # what was in hand ends
                before_s, away_s = busy_s(pids), amount(0, seconds - 2)
                time.sleep(away_s)
                assert (farm.pid, *farm.children()) == pids
                if away_s:
                    assert farm.logged("waiting for kafka default") > told
                    kafka_figure(f"{name}: share of a core meanwhile", (busy_s(pids) - before_s) / away_s)
            finally:
                end()
            back_s = load.again_after_s()
            kafka_figure(f"{name}: consuming again after, s", back_s)
            assert back_s < amount(60, 5)
            kafka_figure(f"{name}: all that had gathered is done after, s", load.back_after_s(2 * 60))
        ledger = load.finish()
        ledger.verify(repeated=len(outages) * 2 * IN_FLIGHT)
        kafka_figure("work done again", ledger.repeated)


@pytest.mark.fault(row="kafka-slow-handlers", short="kafka-python")
@pytest.mark.timeout(600)
def test_handlers_slower_than_the_longest_pause_between_polls(make_farm: MakeFarm, work: Work, amount: Amount) -> None:
    """The members stay, and nothing comes twice. (Both libraries would put out who does not poll for 300 s.)"""
    seconds = amount(1, 330)
    farm = make_farm()
    add_module(farm.app, "slow", waits(f"(i32.const {seconds * 1000})"))
    work.serve(farm, "fn: slow", "workers: 2", "timeout: 400s")
    with farm, work.load(per_s=1000, count=PARTITIONS) as load:
        before = members(work.server, work.topic)
        load.wait_worked(PARTITIONS, seconds + 20)
        ledger = load.finish()
        ledger.verify(repeated=0)
        assert members(work.server, work.topic) == before
        assert not farm.logged("connection closed") and not farm.logged("message will be tried again")


@pytest.mark.fault(row="kafka-poison", short="librdkafka")
@pytest.mark.timeout(900)
def test_one_in_a_hundred_is_poison(make_farm: MakeFarm, work: Work, amount: Amount, kafka_figure: Figure) -> None:
    """Each is tried as often as it may be and is in the dead letters then, once; all others come out, in order."""
    farm = work.serve(make_farm(), "fn: trapping", "retry: {attempts: 3, initialDelay: 50ms, on: [trap]}")
    count = amount(400, 40_000)

    def data(number: int) -> bytes:
        return b"unreachable %d" % number if number % 100 == 50 else b"%d" % number

    with farm, work.load(count=count, data=data, per_s=200) as load:
        load.wait_worked(count - count // 100, count / 200 + 60)
        ledger = load.finish()
        ledger.verify(dead=count // 100)
        gone = farm.log(message="message failed")
        assert len(gone) == count // 100 and all(line["attempt"] == 3 for line in gone)
        kafka_figure("poison messages, all in the dead letters once", len(ledger.dead))


@pytest.mark.fault(row="kafka-hup-storm", short="kafka-python")
@pytest.mark.timeout(900)
def test_reloads_under_load(make_farm: MakeFarm, work: Work, amount: Amount, kafka_figure: Figure) -> None:
    """A new process has its predecessor's place when that has committed what it had in hand: nothing is done twice."""
    hups = amount(4, 200)
    farm = work.serve(make_farm(), "fn: hello", "workers: 2")
    with farm, work.load(amount(80, 300)) as load:
        load.back_after_s()
        for number in range(hups):
            work.serve(farm, "fn: hello", "workers: 2", f"timeout: {20 + number}s")
            os.kill(farm.pid, signal.SIGHUP)
            time.sleep(0.05)
        load.back_after_s(60)
        ledger = load.finish()
        ledger.verify(repeated=0)
        kafka_figure("reloads, nothing done twice", farm.logged("reload: in force"))
        assert farm.stop() == 0


@pytest.mark.fault(row="kafka-rebalance-storm", short="librdkafka")
@pytest.mark.timeout(900)
def test_workers_up_and_down_under_load(make_farm: MakeFarm, work: Work, amount: Amount, kafka_figure: Figure) -> None:
    """By reloads that change `workers`: partitions go from one to the other, and work is done again for what they had
    in flight at most."""
    times = amount(1, 20)
    farm = work.serve(make_farm(), "fn: hello", "workers: 1")
    with farm, work.load(amount(80, 300)) as load:
        for _ in range(times):
            for workers in (4, 1):
                load.back_after_s()
                work.serve(farm, "fn: hello", f"workers: {workers}")
                os.kill(farm.pid, signal.SIGHUP)
                wait_for(lambda count=workers: len(farm.workers("work")) == count)  # type: ignore[misc]
        load.back_after_s()
        ledger = load.finish()
        ledger.verify(repeated=times * 2 * IN_FLIGHT)
        kafka_figure("work done again", ledger.repeated)


@pytest.mark.fault(row="kafka-two-farms", short="kafka-python")
@pytest.mark.timeout(300)
def test_two_farms_share_a_group_and_one_is_killed(
    make_farm: MakeFarm, work: Work, amount: Amount, kafka_figure: Figure
) -> None:
    """Both work; when one is gone with its children, the other has its partitions when their sessions have ended."""
    first, second = (work.serve(make_farm(), "fn: hello", "workers: 2") for _ in range(2))
    with work.load(amount(60, 200)) as load:
        for farm in (first, second):
            farm.start()
            farm.wait_notified("READY=1")
        assert len(members(work.server, work.topic)) == 4
        load.back_after_s()
        first.stop(signal.SIGKILL)
        back_s = load.back_after_s()
        ledger = load.finish()
        ledger.verify(repeated=2 * IN_FLIGHT)
        kafka_figure("all partitions go on after, s", back_s)
        kafka_figure("work done again", ledger.repeated)
        assert second.stop() == 0


@pytest.mark.fault(row="kafka-order", short="librdkafka")
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("ordering", "lanes"), [("partition", PARTITIONS), ("key", KEYS)])
def test_an_order_survives_kills_and_rebalances(
    make_farm: MakeFarm, work: Work, amount: Amount, kafka_figure: Figure, ordering: str, lanes: int
) -> None:
    """Outputs of a partition, or key, come in their order, whoever works and whatever is killed."""
    times = amount(1, 20)
    farm = make_farm()
    add_module(farm.app, "waiting", BY_LAST_DIGIT)
    work.serve(farm, "fn: waiting", f"ordering: {ordering}", "workers: 2")
    with farm, work.load(amount(80, 150)) as load:
        for _ in range(times):
            for workers in amount((3,), (3, 2)):  # type: ignore[arg-type, attr-defined]
                load.back_after_s()
                os.kill(farm.workers("work")[0], signal.SIGKILL)
                load.back_after_s()
                work.serve(farm, "fn: waiting", f"ordering: {ordering}", f"workers: {workers}")
                os.kill(farm.pid, signal.SIGHUP)
                wait_for(lambda count=workers: len(farm.workers("work")) == count)  # type: ignore[misc]
        load.back_after_s()
        ledger = load.finish()
        ledger.verify(repeated=4 * times * IN_FLIGHT)
        began_again = verify_order(load.outputs, lanes, back=4 * times)
        kafka_figure(f"{ordering}: messages in order", len(load.outputs))
        kafka_figure(f"{ordering}: times that one began again", began_again)


@pytest.mark.fault(row="kafka-exactly-once", short="kafka-python")
@pytest.mark.timeout(1200)
def test_exactly_once(make_farm: MakeFarm, work: Work, amount: Amount, kafka_figure: Figure) -> None:
    """A reader that waits for transactions sees each result and each dead letter once, in order, whatever
    consumers are killed, and whatever workers come and go."""
    kills, reloads = amount(3, 50), amount(1, 10)
    keys = "exactlyOnce: true", "retry: {attempts: 2, initialDelay: 20ms, on: [trap]}"
    farm = work.serve(make_farm(), "fn: trapping", *keys, "workers: 3")

    def data(number: int) -> bytes:
        return b"unreachable %d" % number if number % 50 == 49 else b"%d" % number

    with farm, work.load(amount(80, 150), data=data) as load:
        load.back_after_s()
        back = []
        for _ in range(kills):
            wait_for(lambda: len(farm.workers("work")) == 3)
            os.kill(farm.workers("work")[0], signal.SIGKILL)
            back.append(load.back_after_s())
            time.sleep(amount(0, 1))
        for number in range(2 * reloads):
            workers = 2 + number % 2
            work.serve(farm, "fn: trapping", *keys, f"workers: {workers}")
            os.kill(farm.pid, signal.SIGHUP)
            wait_for(lambda count=workers: len(farm.workers("work")) == count)  # type: ignore[misc]
            load.back_after_s()
        ledger = load.finish()
        ledger.verify(repeated=0, dead=len([name for name in ledger.published if int(name) % 50 == 49]))
        for partition in range(PARTITIONS):
            ordered = [number for number in load.outputs if number % PARTITIONS == partition]
            assert ordered == sorted(ordered)
        kafka_figure("kills", kills)
        kafka_figure("slowest return, s", max(back))
        kafka_figure("messages, each result once", len(ledger.published))
        assert farm.stop() == 0


@pytest.mark.fault(row="kafka-exactly-once-outages", short="kafka-python")
@pytest.mark.timeout(900)
def test_exactly_once_over_outages(
    make_farm: MakeFarm, start_kafka: Callable[[], KafkaServer], driver: str, amount: Amount, kafka_figure: Figure
) -> None:
    """A broker that is stopped or stands amid transactions: each result is there once, and all of them. Not one that is
    killed: without replicas it forgets what it had promised (docs/kafka.md)."""
    server = start_kafka()
    work = Work.on(server, driver)
    farm = work.serve(make_farm(), "fn: hello", "exactlyOnce: true", "workers: 2")
    with farm, work.load(amount(60, 150)) as load:
        for _ in range(amount(1, 8)):
            for begin, end, seconds in (
                (server.stop, server.start, 5),
                *amount((), ((server.pause, server.resume, 20),)),  # type: ignore[misc, arg-type]
            ):
                load.back_after_s()
                begin()
                time.sleep(amount(1, seconds))
                end()
        load.back_after_s()
        ledger = load.finish()
        ledger.verify(repeated=0)
        kafka_figure("messages, each result once", len(ledger.published))


@pytest.mark.fault(row="kafka-failover", short="librdkafka")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("exactly", [False, True], ids=["at-least-once", "exactly-once"])
def test_a_broker_with_replicas_is_killed(
    make_farm: MakeFarm, tmp_path: Path, driver: str, exactly: bool, amount: Amount, kafka_figure: Figure
) -> None:
    """The one that coordinates groups and transactions, again and again: another takes its place, nothing is lost, and
    with exactlyOnce each result is there once."""
    kills, how = amount(1, 20), "exactly once" if exactly else "at least once"
    with KafkaCluster(tmp_path) as cluster:
        work = Work.on(cluster.first, driver)
        farm = work.serve(make_farm(), "fn: hello", f"exactlyOnce: {str(exactly).lower()}", "workers: 2")
        with farm, work.load(amount(60, 150)) as load:
            back = []
            for _ in range(kills):
                load.back_after_s()
                cluster.wait_in_sync()
                killed = cluster.coordinator()
                killed.kill()
                back.append(load.back_after_s())
                killed.start()
            ledger = load.finish()
            ledger.verify(repeated=0 if exactly else 2 * kills * IN_FLIGHT)
            kafka_figure(f"{how}: kills", kills)
            kafka_figure(f"{how}: slowest return, s", max(back))
            kafka_figure(f"{how}: messages, none lost", len(ledger.published))
            kafka_figure(f"{how}: work done again", ledger.repeated)
            assert max(back) < amount(60, 10 if exactly else 5), "in the suite others have the cores"
