"""Kills, stops and broken children of a real farm under load (spec 4; scripts/soak runs the full form)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.farm import alive, wait_for
from tests.system.conftest import TestFarm
from tests.system.load import Load

MakeFarm = Callable[..., TestFarm]
Amount = Callable[[int, int], int]
Figure = Callable[[str, object], None]
KILL_SPACING_S = 1.0
"""Between kills of one of three handlers in turn: more than three seconds for each of them."""


@pytest.mark.alone
@pytest.mark.fault(row="kill-child")
@pytest.mark.timeout(900)
def test_kill_9_of_children_under_load(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """Each time replies resume within a second, and no neighbour loses a message."""
    kills = amount(5, 100)
    farm = make_farm().serve(a="fn: hello", b="fn: hello", c="fn: hello", neighbour="fn: hello")
    with farm, Load(farm.url, farm.subject("neighbour"), per_s=100) as neighbour:
        resumed = []
        for number in range(kills):
            handler = "abc"[number % 3]
            (pid,) = farm.workers(handler)
            with Load(farm.url, farm.subject(handler), per_s=100) as load:
                wait_for(lambda load=load: load.answered() > 10)
                killed_at = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                resumed.append(load.wait_resumed(killed_at, 5))
            assert load.repeated() == 0
            time.sleep(KILL_SPACING_S)
        neighbour.stop()
        assert max(resumed) < 1, resumed
        assert neighbour.lost() == neighbour.repeated() == 0
        assert farm.logged("worker ended") == kills
        figure("kills", kills)
        figure("slowest return, s", max(resumed))
        figure("neighbour's messages, none lost", len(neighbour.requests))
        assert farm.stop() == 0


@pytest.mark.fault(row="kill-master")
@pytest.mark.timeout(900)
def test_kill_9_of_the_master_leaves_no_orphan(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """Under load: every child is gone within two seconds, and the next start works on the same folders."""
    kills = amount(4, 100)
    farm = make_farm().serve(a="fn: hello\nworkers: 2", b="fn: upper-case")
    with Load(farm.url, farm.subject("a"), per_s=100):
        for _ in range(kills):
            farm.start()
            farm.wait_notified("READY=1")
            assert len(farm.children()) == 3
            children = [*farm.children(), farm.monitor()]
            assert farm.stop(signal.SIGKILL) == -signal.SIGKILL
            wait_for(lambda children=children: not alive(*children), 2)
    figure("kills", kills)
    figure("orphans after 2 s", 0)


@pytest.mark.fault(row="stop-child")
def test_a_stopped_child_is_replaced(make_farm: MakeFarm, figure: Figure) -> None:
    """SIGSTOP at default settings: replaced within 12 s."""
    farm = make_farm().serve(a="fn: hello")
    with farm, Load(farm.url, farm.subject("a"), per_s=50) as load:
        (pid,) = farm.workers()
        stopped_at = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        resumed_s = load.wait_resumed(stopped_at + 0.5, 15)
        assert 5 < resumed_s < 12
        assert "no heartbeat" in farm.wait_log(message="worker ended")["cause"]
        figure("replaced after, s", resumed_s)


@pytest.mark.alone
@pytest.mark.fault(row="never-ready")
@pytest.mark.timeout(300)
def test_a_child_that_never_gets_ready_costs_ten_forks_a_minute_and_no_neighbour(
    make_farm: MakeFarm, amount: Amount, figure: Figure
) -> None:
    """Its compiled module is damaged on the disk; the others keep at least 95 % of their rate."""
    farm = make_farm().serve(bad="fn: upper-case", good="fn: hello")
    with farm, Load(farm.url, farm.subject("good"), per_s=200) as load:
        wait_for(lambda: load.answered() > 20)
        before_begin = time.monotonic()
        time.sleep(3)
        before_end = time.monotonic()
        for path in (farm.folder / "state" / "modules").glob("*.cwasm"):
            damaged = path.with_suffix(".damaged")
            damaged.write_bytes(path.read_bytes()[:-1])
            damaged.chmod(0o600)
            damaged.rename(path)
        (pid,) = farm.workers("bad")
        os.kill(pid, signal.SIGKILL)
        begin = time.monotonic()
        time.sleep(amount(9, 60))
        end = time.monotonic()
        forks = farm.logged("worker started", worker="bad/0") - 1
        assert 5 <= forks <= 10, forks
        assert "exit 10 (boot failed)" in farm.log(message="worker ended", worker="bad/0")[-1]["cause"]
        rate_before = load.answered(before_begin, before_end) / (before_end - before_begin)
        rate = load.answered(begin, end) / (end - begin)
        assert rate >= 0.95 * rate_before, (rate, rate_before)
        figure("forks", forks)
        figure("the others' rate, of before", rate / rate_before)
        (farm.folder / "state" / "modules").rename(farm.folder / "state" / "gone")
        wait_for(lambda: farm.log(message="worker ready", worker="bad/0")[1:], 40)


def test_missing_compiled_modules_are_made_again(make_farm: MakeFarm) -> None:
    """Somebody emptied the cache: the next respawn compiles them from the kept bundle, without the user's folder."""
    farm = make_farm().serve(a="fn: hello")
    with farm:
        for path in (farm.folder / "state" / "modules").iterdir():
            path.unlink()
        farm.app.rename(farm.app.with_name("gone"))
        (pid,) = farm.workers()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(farm.log(message="worker ready", worker="a/0")) == 2)
        assert farm.log(message="compiled module is gone")


def test_children_hold_nothing_of_the_masters(make_farm: MakeFarm) -> None:
    """No pid file, no notify socket, no other's channel; the master has one thread, a child its ticker at most."""
    farm = make_farm().serve(a="fn: hello\nworkers: 3", b="fn: hello")
    with farm:
        assert len(list(Path(f"/proc/{farm.pid}/task").iterdir())) == 1
        for pid in farm.workers():
            targets = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
            assert not [target for target in targets if target.endswith(".pid")]
            unix = [line.split()[6] for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
            sockets = [target for target in targets if target.startswith("socket:[") and target[8:-1] in unix]
            assert len(sockets) == 3, targets  # its channel, and the pair by which its loop wakes itself
            assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= 500
            assert len(list(Path(f"/proc/{pid}/task").iterdir())) <= 2


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load(make_farm: MakeFarm, how: signal.Signals) -> None:
    """Exit code 0 within 30 s; what was taken is answered, all of it exactly once."""
    farm = make_farm().serve(a="fn: hello\nworkers: 2")
    with farm, Load(farm.url, farm.subject("a"), per_s=500) as load:
        wait_for(lambda: load.answered() > 100)
        sent_at = time.monotonic()
        assert farm.stop(how, 30) == 0
        assert time.monotonic() - sent_at < 5
        load.stop()
        answered = [request.answers for request in load.requests]
        assert set(answered) <= {0, 1}
        last = max(at for at, answers in enumerate(answered) if answers)
        assert 0 not in answered[:last], "a message before the last answered one was lost"


def test_a_second_sigterm_does_not_wait(make_farm: MakeFarm) -> None:
    """A guest that loops holds the drain; the second SIGTERM ends it at once, exit code 0."""
    farm = make_farm().serve(a="fn: looping\ntimeout: 60s")
    with farm, Load(farm.url, farm.subject("a"), per_s=20):
        wait_for(lambda: farm.workers("a"))
        time.sleep(0.5)
        assert farm.process is not None
        farm.process.send_signal(signal.SIGTERM)
        farm.wait_log(message="SIGTERM: draining")
        time.sleep(1)
        assert farm.process.poll() is None
        sent_at = time.monotonic()
        assert farm.stop() == 0
        assert time.monotonic() - sent_at < 1
