"""What the service manager is told, by a real notify socket."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from atmo_farm.master.notify import Notifier
from tests.unit.master.conftest import Farm


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(tmp_path / "notify"))
    receiver.setblocking(False)
    return receiver


def test_the_variables_are_taken_out_of_the_environment(tmp_path: Path, manager: socket.socket) -> None:
    """Children must not speak for the farm."""
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000", "HOME": "/"}
    notifier = Notifier(environ)
    assert environ == {"HOME": "/"}
    assert notifier.watchdog_s == 1.5
    assert Notifier({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "²"}).watchdog_s is None


def test_an_abstract_socket_is_served(tmp_path: Path) -> None:
    """systemd gives `@name` for one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        name = f"atmo-farm-test-{tmp_path.name}-{id(tmp_path)}"
        receiver.bind("\0" + name)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert receiver.recv(100) == b"READY=1"


def test_without_a_socket_nothing_happens() -> None:
    """Neither without the variable nor with one that leads nowhere."""
    for environ in ({}, {"NOTIFY_SOCKET": "/nowhere/at/all"}):
        notifier = Notifier(environ)
        notifier.ready()
        notifier.status("text")
        assert notifier.flush()


def test_a_full_socket_drops_status_and_keeps_the_states(tmp_path: Path, manager: socket.socket) -> None:
    """Nothing blocks; READY, RELOADING and STOPPING come in their order once there is room."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000"})
    for number in range(2000):
        notifier.status(f"filling {number}")
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    notifier.watchdog()
    assert not notifier.flush()
    received = []
    while True:
        try:
            received.append(manager.recv(4096).decode().splitlines()[0])
        except BlockingIOError:
            if notifier.flush():
                break
    while True:
        try:
            received.append(manager.recv(4096).decode().splitlines()[0])
        except BlockingIOError:
            break
    assert received[-3:] == ["READY=1", "RELOADING=1", "STOPPING=1"]
    assert "WATCHDOG=1" not in received and len(received) < 2000


def test_a_status_is_cut_and_sent_only_when_it_changes(tmp_path: Path, manager: socket.socket) -> None:
    """One line of valid UTF-8."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.status("ü" * 3000)
    notifier.status("ü" * 3000)
    content = manager.recv(4096)
    assert content.decode() == "STATUS=" + "ü" * 512
    notifier.status("two\nlines")
    assert manager.recv(4096) == b"STATUS=two lines"
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


def test_the_watchdog_is_fed(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice in each period, also while nothing else happens."""
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    farm.listen()
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    started = time.monotonic()
    fed = 0
    while fed < 10:
        fed += farm.notified() == ["WATCHDOG=1"]
    assert time.monotonic() - started < 10 * 0.4


def test_the_sequence_of_a_life(farm: Farm) -> None:
    """READY when all are up; RELOADING and READY around a reload, refused or not; STOPPING."""
    farm.listen()
    farm.start(echo={"behaviour": "slow 0.3"}, other={"behaviour": "wait refused"})
    assert farm.states("READY=1") == ["READY=1"]
    farm.app(handlers={}, problems=["bad"])
    farm.signal(signal.SIGHUP)
    assert farm.states("READY=1") == ["RELOADING=1", "READY=1"]
    farm.app(handlers={"echo": {"behaviour": "ok"}})
    farm.signal(signal.SIGHUP)
    assert farm.states("READY=1") == ["RELOADING=1", "READY=1"]
    farm.signal(signal.SIGTERM)
    assert farm.states("STOPPING=1") == ["STOPPING=1"]
    assert farm.end() == 0


def test_the_status_names_generation_waits_losses_and_a_refused_reload(farm: Farm) -> None:
    """What `systemctl status` shows in one line."""
    farm.listen()
    farm.start(echo={"behaviour": "drops"}, other={"behaviour": "wait connection refused"})
    status = "STATUS=generation 1, 1 of 2 ready; waiting: other/0 for nats default (connection refused)"
    while farm.notified() != [status + "; 1 messages dropped"]:
        pass
    farm.app(handlers={}, problems=["bad", "worse"])
    farm.signal(signal.SIGHUP)
    end = "; last reload refused: Directive.yaml:3:1: key: bad (and 1 more)"
    while not farm.notified()[0].endswith(end):
        pass
    farm.app(handlers={"other": {"behaviour": "crash"}, "echo": {"behaviour": "drops"}})
    farm.signal(signal.SIGHUP)
    while "rolled back: not ready after 2 s: other/0" not in farm.notified()[0]:
        pass


def test_a_farm_that_never_gets_ready_is_not_ready(farm: Farm) -> None:
    """READY is not told while one worker cannot boot; the status says which and why."""
    farm.listen()
    farm.start(bad={"behaviour": "fail no such module"}, good={"behaviour": "ok"})
    seen: list[str] = []
    while not seen or "not getting ready: bad/0 (no such module)" not in seen[-1]:
        seen += farm.notified()
    assert "READY=1" not in seen
    farm.app(handlers={"good": {"behaviour": "ok"}})
    farm.signal(signal.SIGHUP)
    assert farm.states("READY=1") == ["READY=1"]
