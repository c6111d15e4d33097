"""A whole life of the master, with real forks and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.farm import alive
from tests.unit.master.conftest import FAST, Farm


def test_children_are_started_and_drained(farm: Farm) -> None:
    """One process for each worker; SIGTERM ends them, then the master, with exit code 0."""
    farm.start(echo={"behaviour": "ok", "workers": 2}, other={"behaviour": "ok"})
    assert farm.wait_for("farm is up")["workers"] == 3
    assert sorted(farm.children().values()) == ["atmo echo/0", "atmo echo/1", "atmo other/0"]
    farm.signal(signal.SIGTERM)
    assert farm.end() == 0
    assert farm.count("worker ended") == 4  # the monitor last
    assert farm.wait_for("worker ended", worker="monitor/0")
    assert not (farm.folder / "run" / "atmo-farm.pid").exists()


def test_sigint_drains_as_well(farm: Farm) -> None:
    """Ctrl-C ends the farm like SIGTERM."""
    farm.start(echo={"behaviour": "drains 0.3"})
    farm.wait_for("farm is up")
    farm.signal(signal.SIGINT)
    farm.wait_for("worker ended", cause="exit 0 (drained)")
    assert farm.end() == 0


def test_the_kernel_takes_children_first_when_memory_runs_out(farm: Farm) -> None:
    """Each child's oom_score_adj is 500 above the master's, so that it is one of them that goes and is replaced."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    children = [*farm.children(), *farm.children("monitor")]
    scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (farm.pid, *children)]
    assert scores[1:] == [min(1000, scores[0] + 500)] * len(children)


@pytest.mark.alone
def test_a_killed_child_is_back_at_once(farm: Farm) -> None:
    """A process that was ready is replaced within a tenth of a second, and its worker goes on counting."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    (pid,) = farm.children()
    killed_at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    assert farm.wait_for("worker ended")["cause"] == "killed by SIGKILL"
    assert farm.wait_for("worker ready")["pid"] != pid
    assert time.monotonic() - killed_at < 0.5


def test_a_child_that_dies_before_ready_backs_off(farm: Farm) -> None:
    """Six forks in the first seconds at most, and the neighbour never notices."""
    farm.start(bad={"behaviour": "crash"}, good={"behaviour": "ok"})
    delays = [farm.wait_for("worker ended", worker="bad/0")["again_in_s"] for _ in range(5)]
    assert delays == sorted(delays) and 1.2 <= delays[-1] <= 2.0
    assert "atmo good/0" in farm.children().values()
    assert farm.count("worker started", worker="good/0") == 1
    assert farm.count("farm is up") == 0


@pytest.mark.alone
def test_quick_deaths_after_ready_back_off_from_the_fifth_on(farm: Farm) -> None:
    """Four are replaced at once; then it costs time."""
    farm.start(bad={"behaviour": "die"})
    delays = [farm.wait_for("worker ended")["again_in_s"] for _ in range(6)]
    assert delays[:4] == [0, 0, 0, 0]
    assert delays[4] > 0 and delays[5] > delays[4]


def test_a_boot_failure_says_why(farm: Farm) -> None:
    """The reason travels over the channel into the log, though the process ends right after it."""
    farm.start(bad={"behaviour": "fail no such module"})
    ended = farm.wait_for("worker ended")
    assert ended["cause"] == "exit 10 (boot failed)" and ended["reason"] == "no such module"


def test_an_exception_in_a_child_is_logged_and_ends_it_with_70(farm: Farm) -> None:
    """Nothing of the master's stack is unwound in a child."""
    farm.start(bad={"behaviour": "raise"})
    assert "RuntimeError: not expected" in farm.wait_for("internal error")["exception"]
    assert farm.wait_for("worker ended")["cause"] == "exit 70 (internal)"


def test_a_stopped_child_is_replaced(farm: Farm) -> None:
    """SIGSTOP: killed when its heartbeat is older than the timeout, and replaced at once."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    (pid,) = farm.children()
    os.kill(pid, signal.SIGSTOP)
    stopped_at = time.monotonic()
    assert "no heartbeat" in farm.wait_for("worker ended")["cause"]
    farm.wait_for("worker ready")
    assert time.monotonic() - stopped_at < FAST["heartbeat_timeout_s"] + 2


def test_a_child_that_never_beats_again_is_replaced(farm: Farm) -> None:
    """A loop that stands is as bad as a stopped process."""
    farm.start(bad={"behaviour": "silent"})
    assert "no heartbeat" in farm.wait_for("worker ended")["cause"]


@pytest.mark.alone
def test_a_child_that_hangs_in_its_boot_is_killed(farm: Farm) -> None:
    """The boot timeout ends it, and it counts as a death before ready."""
    farm.start(bad={"behaviour": "hang"})
    ended = farm.wait_for("worker ended")
    assert "not ready after 2 s" in ended["cause"] and ended["again_in_s"] >= 0.1


def test_a_stopped_master_blames_nobody_when_it_goes_on(farm: Farm) -> None:
    """Heartbeats are judged from the moment on at which the master itself was awake."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    (pid,) = farm.children()
    for stopped in (farm.pid, pid):
        os.kill(stopped, signal.SIGSTOP)
    time.sleep(FAST["heartbeat_timeout_s"] + 1.5)
    for stopped in (farm.pid, pid):
        os.kill(stopped, signal.SIGCONT)
    farm.signal(signal.SIGUSR1)
    farm.wait_for("log reopened")
    time.sleep(0.5)
    assert list(farm.children()) == [pid]


def test_a_stubborn_child_is_killed_at_the_drain_deadline(farm: Farm) -> None:
    """SIGTERM to the farm ends within the deadline, with exit code 0, whatever a child does."""
    farm.start(bad={"behaviour": "stubborn"}, good={"behaviour": "ok"})
    farm.wait_for("farm is up")
    farm.signal(signal.SIGTERM)
    assert "not drained after 2 s" in farm.wait_for("worker ended", worker="bad/0")["cause"]
    assert farm.end() == 0


def test_a_second_sigterm_ends_at_once(farm: Farm) -> None:
    """It does not wait for the drain deadline."""
    farm.settings(**{**FAST, "drain_deadline_s": 60})
    farm.start(bad={"behaviour": "stubborn"})
    farm.wait_for("farm is up")
    farm.signal(signal.SIGTERM)
    farm.wait_for("SIGTERM: draining")
    farm.signal(signal.SIGTERM)
    assert farm.end(2) == 0


def test_sigterm_while_loading_ends_at_once(farm: Farm) -> None:
    """The helper process is killed, nothing is started."""
    farm.app(handlers={"echo": {"behaviour": "ok"}}, takes_s=60)
    farm.start()
    farm.wait_until(lambda: "atmo helper" in farm.children().values())
    farm.signal(signal.SIGTERM)
    assert farm.end(2) == 0


def test_sigterm_while_children_boot_ends_at_once(farm: Farm) -> None:
    """A SIGTERM that comes before a child has its handler waits for it."""
    farm.start(slow={"behaviour": "slow 0.5", "workers": 3})
    farm.wait_for("worker started", worker="slow/2")
    farm.signal(signal.SIGTERM)
    for _ in range(3):
        assert farm.wait_for("worker ended")["cause"] == "exit 0 (drained)"
    assert farm.end(2) == 0


def test_no_orphan_after_kill_9_of_the_master(farm: Farm) -> None:
    """Every child, also one that ignores SIGTERM or hangs, is gone with the master."""
    farm.start(a={"behaviour": "ok", "workers": 3}, b={"behaviour": "stubborn"}, c={"behaviour": "hang"})
    farm.wait_for("worker ready", worker="b/0")
    farm.wait_until(lambda: len(farm.children()) == 5)
    children = list(farm.children())
    farm.signal(signal.SIGKILL)
    farm.end()
    farm.wait_until(lambda: not alive(*children), timeout_s=2)


def test_a_second_start_is_refused_with_the_pid_of_the_first(farm: Farm) -> None:
    """Exit code 3, and the first one is not touched; after kill -9 of it a new start works."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    command = [sys.executable, "-m", "tests.unit.master.fake_farm", str(farm.folder)]
    second = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert second.returncode == 3 and f"pid {farm.pid}" in second.stderr.decode()
    assert (farm.folder / "run" / "atmo-farm.pid").read_text() == f"{farm.pid}\n"
    farm.signal(signal.SIGKILL)
    farm.end()
    farm.start()
    farm.wait_for("farm is up")


def test_problems_end_the_start(farm: Farm) -> None:
    """All of them are told; the exit code is 1, and 3 for what this build does not serve."""
    farm.app(handlers={}, problems=["first", "second"])
    farm.start()
    assert farm.end() == 1
    assert farm.errors().splitlines()[-2:] == ["Directive.yaml:3:1: key: first", "Directive.yaml:3:1: key: second"]
    farm.app(handlers={}, not_served="durable is not served")
    farm.start()
    assert farm.end() == 3


def test_a_helper_that_is_killed_or_too_slow_ends_the_start_cleanly(farm: Farm) -> None:
    """The reason is told, exit code 3."""
    farm.app(handlers={}, dies=True)
    farm.start()
    assert farm.end() == 3
    assert "killed by SIGKILL" in farm.errors()
    farm.settings(**{**FAST, "load_timeout_s": 0.5})
    farm.app(handlers={}, takes_s=60)
    farm.start()
    assert farm.end() == 3
    assert "took longer than 0.5 s" in farm.errors()


def test_a_required_connection_that_is_down_ends_the_start(farm: Farm) -> None:
    """Exit code 3, naming what is out of reach; nothing is left."""
    farm.settings(**FAST, require_connections=True)
    farm.start(echo={"behaviour": "wait connection refused"}, other={"behaviour": "ok"})
    assert farm.end() == 3
    assert "nats default is out of reach: connection refused" in farm.errors()


def test_a_state_folder_belongs_to_one_farm(farm: Farm, tmp_path: Path) -> None:
    """A second one, in a run folder of its own, is refused: they would remove each other's modules and generations."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    other = Farm(tmp_path / "other")
    other.app(handlers={"echo": {"behaviour": "ok"}})
    (other.folder / "state").symlink_to(farm.folder / "state")
    other.start()
    assert other.end() == 3
    assert "symbolic link" in other.errors()
    (other.folder / "state").unlink()
    other.settings(**FAST, state_dir=str(farm.folder / "state"))
    other.start()
    assert other.end() == 3
    said = other.errors()
    assert f"pid {farm.pid}" in said and "--state-dir" in said


def test_malformed_words_of_a_child_do_no_harm(farm: Farm) -> None:
    """They are logged and passed over; the channel goes on."""
    farm.start(odd={"behaviour": "garbage"})
    farm.wait_for("odd/0 sent a malformed line")
    farm.wait_for("worker ready")
    assert len(farm.children()) == 1


def test_hup_while_starting_never_kills(farm: Farm) -> None:
    """From the pid file on, a SIGHUP at any moment of the start is a reload after it; 5 starts."""
    farm.settings(**FAST)
    pid_file = farm.folder / "run" / "atmo-farm.pid"
    for round_number in range(5):
        farm.start(echo={"behaviour": "ok"})
        farm.wait_until(lambda: pid_file.exists() and pid_file.read_text() == f"{farm.pid}\n")
        time.sleep(round_number * 0.005)
        farm.signal(signal.SIGHUP)
        farm.wait_for("reload: in force")
        farm.signal(signal.SIGTERM)
        assert farm.end() == 0


def test_an_idle_master_costs_next_to_nothing(farm: Farm) -> None:
    """Less than 1 % of a core while nothing happens."""
    farm.start(echo={"behaviour": "ok", "workers": 4})
    farm.wait_for("farm is up")

    def ticks() -> int:
        fields = Path(f"/proc/{farm.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(3)
    assert ticks() - before <= 3
