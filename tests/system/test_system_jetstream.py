"""Faults of JetStream's handlers under load: nothing is lost, work is done again only for what was in flight."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import nats
import pytest
from nats.js.api import DiscardPolicy, StreamConfig

from tests.farm import add_guest, add_module, busy_s, wait_for
from tests.servers.nats import NatsServer
from tests.system.conftest import TestFarm
from tests.system.jetstream import DURABLE, OUT, JetStreamLoad, make_streams, with_client
from tests.unit.runtime.wat_guests import POLL, guest, subscription

Amount = Callable[[int, int], int]
Figure = Callable[[str, object], None]
IN_FLIGHT = 32
HANDLER = f"""
durable: {DURABLE}
jetstream: {{ackWait: 1s}}
maxInFlight: {IN_FLIGHT}
respondTo: {{source: nats, resource: {OUT}}}
"""

WAITING = guest(
    "(drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 200)))"
    "(call $result (local.get $ptr) (local.get $len) (local.get $ident))",
    imports=POLL,
    items=f'(data (i32.const 64) "{subscription(1, 0, 1, 10_000_000)}")',
)
"""Waits for 10 ms and answers its input."""


def resident(pid: int) -> int:
    """Pages of memory that it has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


def reloads_ended(farm: TestFarm) -> int:
    """In force, or rolled back."""
    goes_on = [line for line in farm.log(level="error") if "was rolled back" in line["message"]]
    return farm.logged("reload: in force") + len(goes_on)


class Flood(threading.Thread):
    """Publishes so many a second, without waiting for the stream, to the end of the block."""

    def __init__(self, url: str, subject: str, per_s: int):
        super().__init__(name=f"flood {subject}")
        self._url, self._subject, self._per_s = url, subject, per_s
        self._end = threading.Event()

    def __enter__(self) -> Flood:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        asyncio.run(self._publish())

    async def _publish(self) -> None:
        client = await nats.connect(self._url)
        begin, number = time.monotonic(), 0
        while not self._end.is_set():
            while number < int((time.monotonic() - begin) * self._per_s):
                number += 1
                await client.publish(self._subject, b"%d" % number)
                if number % 1000 == 0:
                    await client.flush(10)
            await asyncio.sleep(0.01)
        await client.flush(10)
        await client.close()


@pytest.fixture
def server(start_jetstream: Callable[[], NatsServer]) -> NatsServer:
    return start_jetstream()


@pytest.fixture
def serve(make_farm: Callable[..., TestFarm], server: NatsServer) -> Callable[..., TestFarm]:
    """`serve("fn: hello", "workers: 2")`: a farm with one durable handler that is not started, and its streams."""

    def made(step: str, *more: str) -> TestFarm:
        farm = make_farm(url=server.url)
        make_streams(server.url, farm.subject("work"))
        add_guest(farm.app, "c", "trapping", "trapping")
        return farm.serve(work="\n".join((step, *more)) + HANDLER)

    return made


def load_of(farm: TestFarm, **keys: object) -> JetStreamLoad:
    return JetStreamLoad(farm.url, farm.subject("work"), **keys)  # type: ignore[arg-type]


@pytest.mark.fault(row="jetstream-kill-child")
@pytest.mark.timeout(900)
def test_kill_9_of_consumers(serve: Callable[..., TestFarm], amount: Amount, figure: Figure) -> None:
    """Work goes on within a second, by whoever is there."""
    kills = amount(3, 100)
    farm = serve("fn: hello", "workers: 3")
    with farm, load_of(farm) as load:
        resumed = []
        for _ in range(kills):
            load.wait_worked(len(load.worked_at) + 50)
            wait_for(lambda: len(farm.workers("work")) == 3)
            killed_at = time.monotonic()
            os.kill(farm.workers("work")[0], signal.SIGKILL)  # the oldest: each worker in turn
            resumed.append(load.resumed_after_s(killed_at))
            time.sleep(amount(0, 1))
        ledger = load.finish()
        ledger.verify(repeated=kills * IN_FLIGHT)
        assert max(resumed) < 1
        figure("kills", kills)
        figure("slowest return, s", max(resumed))
        figure("messages, none lost", len(ledger.published))
        figure("work done again", ledger.repeated)


@pytest.mark.fault(row="jetstream-kill-one-worker")
@pytest.mark.timeout(900)
def test_kill_9_of_the_only_consumer(serve: Callable[..., TestFarm], amount: Amount, figure: Figure) -> None:
    """Its successor settles the next message within a second."""
    kills = amount(1, 30)
    farm = serve("fn: hello")
    with farm, load_of(farm) as load:
        resumed = []
        for _ in range(kills):
            load.wait_worked(len(load.worked_at) + 50)
            killed_at = time.monotonic()
            os.kill(farm.workers("work")[0], signal.SIGKILL)
            resumed.append(load.resumed_after_s(killed_at + 0.01))
            time.sleep(amount(0, 3))
        load.finish().verify(repeated=kills * IN_FLIGHT)
        assert max(resumed) < 1
        figure("slowest return, s", max(resumed))


@pytest.mark.fault(row="jetstream-broker-stopped")
@pytest.mark.timeout(300)
def test_a_broker_that_is_stopped(
    serve: Callable[..., TestFarm], server: NatsServer, amount: Amount, figure: Figure
) -> None:
    """Work goes on within five seconds after it is back."""
    farm = serve("fn: hello", "workers: 2")
    with farm, load_of(farm) as load:
        load.wait_worked(100)
        server.stop()
        time.sleep(amount(2, 10))
        server.start()
        resumed_s = load.resumed_after_s(time.monotonic())
        load.wait_worked(len(load.worked_at) + 100)
        load.finish().verify(repeated=2 * IN_FLIGHT)
        assert resumed_s < 5
        figure("consuming again after, s", resumed_s)


@pytest.mark.fault(row="jetstream-broker-away")
@pytest.mark.timeout(900)
def test_a_broker_that_is_away_for_long(
    serve: Callable[..., TestFarm], server: NatsServer, amount: Amount, figure: Figure
) -> None:
    """The farm costs next to nothing meanwhile, and work goes on within five seconds after it is back."""
    farm = serve("fn: hello", "workers: 2")
    with farm, load_of(farm, per_s=amount(100, 2)) as load:
        load.wait_worked(20)
        server.stop()
        wait_for(lambda: farm.logged("worker waits") >= 2)
        seconds, pids = amount(3, 540), (farm.pid, *farm.children())
        before_s = busy_s(pids)
        time.sleep(seconds)
        share = (busy_s(pids) - before_s) / seconds
        assert (farm.pid, *farm.children()) == pids
        server.start()
        resumed_s = load.resumed_after_s(time.monotonic())
        load.wait_worked(len(load.worked_at) + 20)
        load.finish().verify(repeated=2 * IN_FLIGHT)
        figure("away, s", seconds)
        figure("share of a core meanwhile", round(share, 3))
        figure("consuming again after, s", resumed_s)
        assert share < 0.05
        assert resumed_s < 5


@pytest.mark.alone
@pytest.mark.fault(row="jetstream-overload")
@pytest.mark.timeout(900)
def test_ten_times_more_than_it_can_do(
    serve: Callable[..., TestFarm], server: NatsServer, amount: Amount, figure: Figure
) -> None:
    """8,000 messages a second for a handler that does 800: its memory stays as it is, and nothing is lost."""
    farm = serve("fn: trapping")
    add_module(farm.app, "waiting", WAITING)
    farm.serve(work="fn: waiting" + HANDLER.replace(f"maxInFlight: {IN_FLIGHT}", "maxInFlight: 8"))
    with farm:
        (worker,) = farm.workers("work")
        with Flood(server.url, farm.subject("work"), 8000):
            time.sleep(4)
            first = last = resident(worker)
            end = time.monotonic() + amount(8, 540)
            while time.monotonic() < end:
                time.sleep(0.25)
                last = max(last, resident(worker))
        assert farm.workers("work") == [worker]
        assert farm.stop() == 0
    kept, done, left = (
        with_client(server.url, lambda js: js.stream_info("IN")).state.messages,
        with_client(server.url, lambda js: js.stream_info("OUT")).state.messages,
        with_client(server.url, lambda js: js.consumer_info("IN", DURABLE)),
    )
    figure("memory at the end and at the beginning", round(last / first, 3))
    figure("published and done", f"{kept} and {done}")
    assert kept > 5 * done > 0, "more than it can do"
    assert done + (left.num_pending or 0) + (left.num_ack_pending or 0) == kept
    assert last < 1.1 * first


@pytest.mark.fault(row="jetstream-half-open")
@pytest.mark.timeout(300)
def test_a_broker_that_stands(
    serve: Callable[..., TestFarm], server: NatsServer, amount: Amount, figure: Figure
) -> None:
    """Stopped by SIGSTOP: noticed within 30 s; what was in flight is settled or done again when it goes on."""
    farm = serve("fn: hello", "workers: 2")
    with farm, load_of(farm) as load:
        load.wait_worked(100)
        server.pause()
        try:
            time.sleep(amount(2, 30))
            if amount(0, 1):
                assert farm.log(message="waiting for nats default")
        finally:
            server.resume()
        resumed_s = load.resumed_after_s(time.monotonic())
        load.wait_worked(len(load.worked_at) + 100)
        load.finish().verify(repeated=2 * IN_FLIGHT)
        figure("consuming again after, s", resumed_s)


@pytest.mark.fault(row="jetstream-slow-handlers")
def test_handlers_slower_than_the_ack_wait(serve: Callable[..., TestFarm]) -> None:
    """They say that they are at it: nothing is delivered again meanwhile."""
    farm = serve("fn: looping", "workers: 2")
    with farm, load_of(farm, count=4, per_s=1000, data=lambda number: b"%d" % (300_000_000 + number)) as load:
        load.wait_worked(4, 60)
        ledger = load.finish()
        assert sorted(ledger.worked.values()) == [1] * 4 and ledger.unsettled == 0
        assert farm.logged("message will be tried again") == 0


@pytest.mark.fault(row="jetstream-poison")
@pytest.mark.timeout(300)
def test_one_in_a_hundred_is_poison(serve: Callable[..., TestFarm], amount: Amount, figure: Figure) -> None:
    """Each is tried as often as it may be and is in the dead letters then; all others come out."""
    farm = serve("fn: trapping", "retry: {attempts: 3, initialDelay: 50ms, on: [trap]}")
    count = amount(1000, 100_000)

    def data(number: int) -> bytes:
        return b"unreachable" if number % 100 == 50 else b"%d" % number

    with farm, load_of(farm, count=count, per_s=500, data=data) as load:
        load.wait_worked(count - count // 100, count / 500 + 30)
        ledger = load.finish()
        ledger.verify(dead=count // 100)
        gone = farm.log(message="message failed")
        assert len(gone) == count // 100 and all(line["attempt"] == 3 for line in gone)
        figure("poison messages, all in the dead letters", len(ledger.dead))


@pytest.mark.fault(row="jetstream-dead-letters-refused")
def test_dead_letters_that_are_refused(serve: Callable[..., TestFarm], server: NatsServer) -> None:
    """Their messages stay unsettled and others go on; they are there when there is room again."""
    farm = serve("fn: trapping")
    dead = StreamConfig(name="ATMO_DEAD", subjects=["atmo.dead.>"], max_msgs=1, discard=DiscardPolicy.NEW)
    with_client(server.url, lambda js: js.add_stream(dead))

    def data(number: int) -> bytes:
        return b"unreachable" if number % 100 == 50 else b"%d" % number

    with farm, load_of(farm, count=300, data=data) as load:
        load.wait_worked(297)
        farm.wait_log(message="dead letter not accepted")
        wait_for(lambda: with_client(server.url, lambda js: js.consumer_info("IN", DURABLE)).num_ack_pending == 2)
        time.sleep(1.5)  # longer than the ack wait
        assert farm.logged("message failed") == 3
        dead.max_msgs = 100
        with_client(server.url, lambda js: js.update_stream(dead))
        load.finish().verify(dead=3)


@pytest.mark.fault(row="jetstream-killer")
@pytest.mark.timeout(120)
def test_a_message_that_kills_its_process(serve: Callable[..., TestFarm], figure: Figure) -> None:
    """Three times: then it is a dead letter and does not run again; the others go on."""
    farm = serve("fn: looping", "workers: 2", "timeout: 60s")

    def data(number: int) -> bytes:
        return b"forever" if number == 10 else b"%d" % number

    with farm, load_of(farm, count=200, per_s=200, data=data) as load:

        def spins(pid: int) -> bool:
            before = _cpu_ticks(pid)
            time.sleep(0.2)
            return _cpu_ticks(pid) - before > 4

        for deaths in (1, 2, 3):
            while not farm.log(message="a message is suspected of the process's death", deaths=deaths):
                for pid in farm.workers("work"):
                    if spins(pid):
                        os.kill(pid, signal.SIGKILL)
        load.wait_worked(199, 40)
        ledger = load.finish()
        ledger.verify(repeated=8 * IN_FLIGHT, dead=1)
        (failed,) = farm.log(message="message failed")
        assert failed["cause"] == "killed its process"
        figure("work of others done again", ledger.repeated)


def _cpu_ticks(pid: int) -> int:
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    except (FileNotFoundError, ProcessLookupError):
        return 0


@pytest.mark.fault(row="jetstream-sigterm-broker-down")
@pytest.mark.timeout(120)
def test_sigterm_while_the_broker_is_down(serve: Callable[..., TestFarm], server: NatsServer, figure: Figure) -> None:
    """It ends well; what it could not settle is done by the next."""
    farm = serve("fn: hello", "workers: 2")
    with farm, load_of(farm) as load:
        load.wait_worked(100)
        server.stop()
        time.sleep(0.3)
        begun = time.monotonic()
        assert farm.stop() == 0
        took_s = time.monotonic() - begun
        server.start()
        farm.start()
        farm.wait_notified("READY=1")
        load.wait_worked(len(load.worked_at) + 100)
        ledger = load.finish()
        ledger.verify(repeated=2 * IN_FLIGHT)
        assert took_s < 30
        figure("ended after, s", took_s)


@pytest.mark.fault(row="jetstream-hup-storm")
@pytest.mark.timeout(300)
def test_reloads_under_load(serve: Callable[..., TestFarm], amount: Amount, figure: Figure) -> None:
    """SIGHUPs with Directives that differ: every handover passes on what was not begun, and nothing is done twice."""
    hups = amount(20, 200)
    farm = serve("fn: hello", "workers: 2")
    with farm, load_of(farm) as load:
        load.wait_worked(50)
        for number in range(hups):
            farm.serve(work=f"fn: hello\nworkers: {2 + number % 2}\ntimeout: {20 + number}s" + HANDLER)
            os.kill(farm.pid, signal.SIGHUP)
            time.sleep(0.05)
        load.wait_worked(len(load.worked_at) + 200)
        ledger = load.finish()
        ledger.verify(repeated=2 * IN_FLIGHT)
        figure("work done again", ledger.repeated)
        assert farm.stop() == 0


@pytest.mark.fault(row="jetstream-reload-and-death")
@pytest.mark.timeout(900)
def test_children_die_while_a_reload_is_under_way(
    serve: Callable[..., TestFarm], amount: Amount, figure: Figure
) -> None:
    """At any moment of it, the old ones and the new: the reload comes to its end, and nothing is lost."""
    reloads = amount(6, 100)
    chance = random.Random(7)
    farm = serve("fn: hello", "workers: 2")
    with farm, load_of(farm) as load:
        load.wait_worked(50)
        for number in range(reloads):
            farm.serve(work=f"fn: hello\nworkers: 2\ntimeout: {20 + number}s" + HANDLER)
            os.kill(farm.pid, signal.SIGHUP)
            time.sleep(chance.uniform(0, 0.4))
            os.kill(chance.choice(farm.workers("work")), signal.SIGKILL)
            wait_for(lambda count=number + 1: reloads_ended(farm) == count, otherwise=farm.tail)  # type: ignore[misc]
            wait_for(lambda: len(farm.workers("work")) == 2, otherwise=farm.tail)
        load.wait_worked(len(load.worked_at) + 50)
        ledger = load.finish()
        ledger.verify(repeated=reloads * IN_FLIGHT)
        figure("reloads with a death", reloads)
        figure("of these in force", farm.logged("reload: in force"))
        figure("messages, none lost", len(ledger.published))
        assert farm.stop() == 0


@pytest.mark.fault(row="jetstream-workers-up-and-down")
@pytest.mark.timeout(300)
def test_workers_up_and_down_under_load(serve: Callable[..., TestFarm], amount: Amount) -> None:
    """By reloads that change `workers`: nothing is lost, nothing is done twice."""
    farm = serve("fn: hello", "workers: 1")
    with farm, load_of(farm) as load:
        for _ in range(amount(1, 10)):
            for workers in (3, 1):
                load.wait_worked(len(load.worked_at) + 50)
                farm.serve(work=f"fn: hello\nworkers: {workers}" + HANDLER)
                os.kill(farm.pid, signal.SIGHUP)
                wait_for(lambda count=workers: len(farm.workers("work")) == count)  # type: ignore[misc]
        load.wait_worked(len(load.worked_at) + 50)
        load.finish().verify(repeated=0)


@pytest.mark.fault(row="jetstream-order")
@pytest.mark.timeout(300)
def test_an_order_survives_reloads_and_kills(serve: Callable[..., TestFarm], amount: Amount) -> None:
    """`ordering: partition`: outputs come in the stream's order, whoever works and whatever is killed."""
    farm = serve("fn: hello", "ordering: partition")
    with farm, load_of(farm, per_s=200) as load:
        for number in range(amount(2, 30)):
            load.wait_worked(len(load.worked_at) + 50)
            farm.serve(work=f"fn: hello\nordering: partition\ntimeout: {20 + number}s" + HANDLER)
            os.kill(farm.pid, signal.SIGHUP)
            load.wait_worked(len(load.worked_at) + 50)
            os.kill(farm.workers("work")[0], signal.SIGKILL)
        load.wait_worked(len(load.worked_at) + 50)
        ledger = load.finish()
        ledger.verify(repeated=amount(2, 30) * IN_FLIGHT)
        assert list(ledger.output) == sorted(ledger.output, key=int)


@pytest.mark.fault(row="jetstream-two-farms")
@pytest.mark.timeout(120)
def test_two_farms_share_a_durable_and_one_is_killed(
    serve: Callable[..., TestFarm], make_farm: Callable[..., TestFarm], figure: Figure
) -> None:
    """Both work; when one is gone with its children, the other does what it had in hand."""
    first = serve("fn: hello", "workers: 2")
    second = make_farm(url=first.url)
    second.prefix = first.prefix
    second.serve(work="fn: hello\nworkers: 2" + HANDLER)
    with load_of(first) as load:
        for farm in (first, second):
            farm.start()
            farm.wait_notified("READY=1")
        load.wait_worked(len(load.worked_at) + 200)
        first.stop(signal.SIGKILL)
        load.wait_worked(len(load.worked_at) + 200)
        ledger = load.finish()
        ledger.verify(repeated=2 * IN_FLIGHT)
        figure("work done again", ledger.repeated)
        assert second.stop() == 0
