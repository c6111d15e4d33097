"""Children, folders and environments that mean harm or are broken: the master goes on, or ends with the right code."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from tests.unit.master.conftest import FAST, Farm


@pytest.mark.parametrize("size", [1, 100_000])
def test_last_words_that_are_no_words_do_no_harm(farm: Farm, size: int) -> None:
    """A child ends in the middle of a line, however long: it is reaped, replaced, and its descriptor is free again."""
    farm.start(bad={"behaviour": f"last {size}", "workers": 6}, good={"behaviour": "ok"})
    for _ in range(40):
        farm.wait_for("worker ended")
    farm.signal(signal.SIGTERM)
    assert farm.end() == 0


@pytest.mark.parametrize("kind", ["lines", "objects", "ready", "flapping"])
def test_a_child_that_floods_its_channel_holds_nobody_up(farm: Farm, kind: str) -> None:
    """It is killed, and comes back ever later; a neighbour's death is answered and SIGTERM obeyed as ever."""
    farm.start(bad={"behaviour": f"babble {kind}"}, good={"behaviour": "ok"})
    farm.wait_for("worker ready", worker="good/0")
    (pid,) = farm.children("good")
    os.kill(pid, signal.SIGKILL)
    farm.wait_until(lambda: any(other != pid for other in farm.children("good")), 1)
    causes = [farm.wait_for("worker ended", worker="bad/0")["cause"] for _ in range(6)]
    assert causes == ["SIGKILL: it floods its channel"] * 6
    farm.signal(signal.SIGTERM)
    farm.wait_until(lambda: not farm.children("good"), 1)
    assert farm.end(FAST["drain_deadline_s"] + 1) == 0
    assert farm.log.stat().st_size < 3_000_000


def test_words_that_are_no_text_do_not_end_the_master(farm: Farm) -> None:
    """Half a surrogate pair and control characters, as a path may hold, reach neither the status line nor the log."""
    farm.listen()
    farm.start(odd={"behaviour": "wait /srv/\udcff/\x1b[31m\x07"})
    while "STATUS=generation 1, 0 of 1 ready; waiting: odd/0 for nats default (/srv/ / [31m )" not in farm.notified():
        pass
    farm.app(handlers={}, problems=["/srv/\udcff: is no number"])
    farm.signal(signal.SIGHUP)
    while not farm.notified()[0].endswith("/srv/ : is no number"):
        pass
    farm.signal(signal.SIGTERM)
    assert farm.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_no_signal_changes_how_the_farm_ends(farm: Farm, number: signal.Signals) -> None:
    """Sent again and again until the process is gone: exit code 0, never the signal's own."""
    for _ in range(3):
        farm.start(echo={"behaviour": "ok"})
        farm.wait_for("farm is up")
        farm.signal(signal.SIGTERM)
        assert farm.process is not None
        while farm.process.poll() is None:
            farm.signal(number)
            time.sleep(0.0005)
        assert farm.end() == 0


def test_signals_that_were_blocked_at_the_start_are_heard(farm: Farm) -> None:
    """A parent may have blocked them before it started us."""
    farm.app(handlers={"echo": {"behaviour": "ok"}})
    start = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals());"
        "os.execv(sys.executable, [sys.executable, '-m', 'tests.unit.master.fake_farm', sys.argv[1]])"
    )
    farm.run(["-c", start, str(farm.folder)], os.environ)
    farm.wait_for("farm is up")
    (pid,) = farm.children()
    os.kill(pid, signal.SIGTERM)
    farm.wait_for("worker ended", cause="exit 0 (drained)")
    farm.wait_for("worker ready")
    farm.signal(signal.SIGTERM)
    assert farm.end() == 0


def test_a_refused_start_says_only_why(farm: Farm, tmp_path: Path) -> None:
    """The helper that was at work ends without a word; a state folder that cannot be used is named, exit code 3."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    other = Farm(tmp_path / "other")
    other.app(handlers={})
    (other.folder / "run").symlink_to(farm.folder / "run")
    (other.folder / "state" / "instance-id").mkdir(parents=True)
    for reason in ("it is a symbolic link", "instance-id cannot be used: Is a directory"):
        other.start()
        assert other.end() == 3
        assert reason in other.errors()
        assert not other.log.exists() or "internal error" not in other.log.read_text()
        if (other.folder / "run").is_symlink():
            (other.folder / "run").unlink()


def test_nothing_can_be_forked_at_the_start(farm: Farm) -> None:
    """No place for the helper: exit code 3, and why."""
    farm.app(handlers={})
    start = (
        "import os, sys\n"
        "from tests.unit.master import fake_farm\n"
        "def fork(): raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "os.fork = fork\n"
        "sys.exit(fake_farm.run(fake_farm.Path(sys.argv[1])))"
    )
    farm.run(["-c", start, str(farm.folder)], os.environ)
    assert farm.end() == 3
    assert "no helper process: Resource temporarily unavailable" in farm.errors()


def test_no_descriptors_left_in_the_master(farm: Farm) -> None:
    """Nobody is forked and each reload is refused, once a second and without backing off further; then all is well."""
    farm.start(echo={"behaviour": "ok", "workers": 3}, other={"behaviour": "ok"})
    farm.wait_for("farm is up")
    before = resource.prlimit(farm.pid, resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for pid in farm.children("echo"):
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    for _ in range(5):
        assert farm.wait_for("no fork")["again_in_s"] == 1
    assert 3.5 < time.monotonic() - began < 6
    farm.signal(signal.SIGHUP)
    farm.wait_for("reload refused")
    resource.prlimit(farm.pid, resource.RLIMIT_NOFILE, before)
    farm.wait_until(lambda: len(farm.children("echo")) == 3, 1.5)
    farm.signal(signal.SIGHUP)
    farm.wait_for("reload: in force")


def test_a_machine_that_stood_blames_no_child_that_boots(farm: Farm) -> None:
    """The boot timeout, too, counts from the moment on at which the master was awake again."""
    farm.start(echo={"behaviour": "slow 1"})
    farm.wait_for("worker started")
    farm.wait_until(lambda: len(farm.children()) == 1)  # it takes its name after that line
    (pid,) = farm.children()
    for stopped in (pid, farm.pid):
        os.kill(stopped, signal.SIGSTOP)
    time.sleep(FAST["boot_timeout_s"] + 1)
    farm.signal(signal.SIGCONT)
    farm.signal(signal.SIGUSR1)
    farm.wait_for("log reopened")
    os.kill(pid, signal.SIGCONT)
    assert farm.wait_for("worker ready")["pid"] == pid


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGRTMIN, signal.SIGRTMIN + 6, signal.SIGRTMAX])
def test_a_child_may_be_killed_by_any_signal(farm: Farm, number: int) -> None:
    """Also by one that has no name."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    (pid,) = farm.children()
    os.kill(pid, number)
    assert farm.wait_for("worker ended")["cause"].startswith("killed by ")
    farm.wait_for("worker ready")


def test_forks_that_fail_for_a_while(farm: Farm) -> None:
    """As many descriptors as without: none is left of those that were made for a child that never was."""
    farm.app(handlers={"echo": {"behaviour": "ok", "workers": 2}})
    start = (
        "import os, sys\n"
        "from tests.unit.master import fake_farm\n"
        "forks, real = [], os.fork\n"
        "def fork():\n"
        "    forks.append(1)\n"
        "    if 2 <= len(forks) <= 4: raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "    return real()\n"
        "os.fork = fork\n"
        "sys.exit(fake_farm.run(fake_farm.Path(sys.argv[1])))"
    )
    farm.run(["-c", start, str(farm.folder)], os.environ)
    for _ in range(3):
        farm.wait_for("no fork", worker="monitor/0")
    farm.wait_for("farm is up")
    descriptors = len(list(Path(f"/proc/{farm.pid}/fd").iterdir()))
    (farm.folder / "log").rename(farm.folder / "log.1")
    farm.signal(signal.SIGTERM)
    assert farm.end() == 0
    farm.start()
    farm.wait_until(lambda: farm.log.exists() and farm.count("farm is up") == 1)
    assert len(list(Path(f"/proc/{farm.pid}/fd").iterdir())) == descriptors
