"""`atmo-farm status|reload|stop` on running farms: which farm is meant, what is printed, how a command ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from atmo_farm.cli.app import cli
from atmo_farm.cli.farm import RunningFarm
from tests.unit.master.conftest import FAST, Farm

SETTINGS = {**FAST, "heartbeat_timeout_s": 10.0, "real_monitor": True}

StartFarm = Callable[[str], Farm]


@pytest.fixture
def places() -> Iterator[Path]:
    """A folder with a short name, for paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="atmo") as made:
        yield Path(made)


@pytest.fixture(autouse=True)
def user(places: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without farms: returns where the run folders are."""
    for name in ("ATMO_FARM_RUN_DIR", "RUNTIME_DIRECTORY", "ATMO_FARM_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(places / "xdg"))
    monkeypatch.setattr("atmo_farm.folders.SYSTEM_PLACE", places / "system")
    monkeypatch.setattr("atmo_farm.folders.TEMPORARY", str(places / "tmp-{uid}"))
    return places / "xdg" / "atmo-farm"


@pytest.fixture
def start_farm(tmp_path: Path, user: Path) -> Iterator[StartFarm]:
    """Starts a farm of this identifier with one handler, in this user's run folders, and waits until it is up."""
    farms: list[Farm] = []

    def start(identifier: str, run_dir: Path | None = None) -> Farm:
        farm = Farm(tmp_path / f"farm{len(farms)}")
        farms.append(farm)
        farm.settings(**SETTINGS, run_dir=str(run_dir or user / identifier))
        farm.app(identifier=identifier, handlers={"echo": {"behaviour": "ok", "workers": 2}})
        farm.start()
        farm.wait_for("farm is up")
        return farm

    yield start
    for farm in farms:
        farm.close()


def run(*arguments: str) -> Result:
    """The command, in this process."""
    return CliRunner().invoke(cli, arguments)


def test_no_farm(user: Path) -> None:
    """Exit code 4, for each verb and each way to name one."""
    for arguments in (["status"], ["reload"], ["stop"], ["status", "--app", "com.acme.shop"]):
        done = run(*arguments)
        assert done.exit_code == 4 and "running for this user" in done.stderr, done.output
    done = run("status", "--run-dir", str(user))
    assert done.exit_code == 4 and done.stderr == f"Error: no farm runs in {user}\n"
    done = run("status", "--run-dir", str(user), "--app", "com.acme.shop")
    assert done.exit_code == 2


def test_which_farm_is_meant(start_farm: StartFarm, user: Path, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only one; of several the one that is named, by identifier or folder; else all are listed."""
    first = start_farm("com.acme.shop")
    assert run("status").stdout.startswith("com.acme.shop v1.0.0: ready, generation 1, 2 of 2 ready")
    service = start_farm("com.acme.other", places / "system" / "instance")
    for name in ("com.acme.shop", "com.acme.other"):
        assert run("status", "--app", name).stdout.startswith(f"{name} ")
    done = run("status")
    assert done.exit_code == 4
    assert done.stderr == (
        "Error: several farms are running, say which one is meant:\n"
        f"  --run-dir {user}/com.acme.shop\n  --run-dir {places}/system/instance\n"
    )
    assert run("status", "--run-dir", str(places / "system" / "instance")).stdout.startswith("com.acme.other ")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(places / "system" / "instance"))
    assert run("status").stdout.startswith("com.acme.other ")
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setenv("ATMO_FARM_RUN_DIR", str(user / "com.acme.shop"))
    assert run("status").stdout.startswith("com.acme.shop ")
    monkeypatch.delenv("ATMO_FARM_RUN_DIR")
    assert run("status", "--app", "com.acme.third").exit_code == 4
    service.signal(signal.SIGKILL)
    service.end()
    done = run("status", "--run-dir", str(places / "system" / "instance"))
    assert done.exit_code == 4 and "no farm runs in" in done.stderr
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(places / "another service"))
    assert run("status").stdout.startswith("com.acme.shop ")
    assert first.children("echo")


def test_a_table_and_json(start_farm: StartFarm) -> None:
    """One line for each handler, aligned; JSON has it all."""
    farm = start_farm("com.acme.shop")
    assert run("status", "--wait", "ready", "--timeout", "5").exit_code == 0  # a card may be later than the log
    head, titles, row = run("status").stdout.splitlines()
    assert head.endswith(f", pid {farm.pid}, up 0s") or ", up " in head
    assert titles.split("  ")[0] == "handler" and row.split() == ["echo", "ready", "2/2", "0", "2", *"000000"]
    assert titles.index("received") + len("received") == row.index(" 2 ") + 2
    found = json.loads(run("status", "--json").stdout)
    assert found["farm"]["app"] == "com.acme.shop" and len(found["handlers"][0]["workers"]) == 2
    assert run("status", "--timeout", "3").exit_code == 2
    for number in ("inf", "nan", "-1"):
        for arguments in (("status", "--wait", "ready"), ("reload", "--wait"), ("stop",)):
            assert run(*arguments, "--timeout", number).exit_code == 2, (arguments, number)


def test_waiting_for_a_farm_to_be_ready(start_farm: StartFarm) -> None:
    """Also for one that does not run yet; in vain it ends with 5 and says what is not ready."""
    farm = start_farm("com.acme.shop")
    assert run("status", "--wait", "ready", "--timeout", "5").exit_code == 0
    farm.app(identifier="com.acme.shop", handlers={"echo": {"behaviour": "wait refused"}})
    assert run("reload", "--wait").exit_code == 0
    done = run("status", "--wait", "ready", "--timeout", "0.3")
    assert done.exit_code == 5
    assert "Error: not ready in time: not ready; echo: 0 of 1 ready, nats default (refused)" in done.stderr
    command = [sys.executable, "-m", "atmo_farm", "status", "--wait", "ready", "--app", "com.acme.late"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        start_farm("com.acme.late")
        out, errors = waiting.communicate(timeout=20)
    assert waiting.returncode == 0 and out.decode().startswith("com.acme.late v1.0.0: ready"), errors
    assert run("status", "--wait", "ready", "--timeout", "0.1", "--app", "com.acme.none").exit_code == 4


def test_reload(start_farm: StartFarm) -> None:
    """Stages on standard error, the result on standard output; refused is 5, with every problem."""
    farm = start_farm("com.acme.shop")
    assert run("reload").stdout == "reload asked for\n"
    farm.wait_for("reload: in force")
    farm.app(identifier="com.acme.shop", handlers={"echo": {"behaviour": "ok 2"}})
    done = run("reload", "--wait")
    assert (done.exit_code, done.stdout) == (0, "generation 3 is in force: \n")
    assert done.stderr.splitlines() == [
        "checking the application",
        "generation 3 accepted: ",
        "starting: 1 of 1 up",
        "generation 3 in force, the old ones drain",
    ]
    farm.app(identifier="com.acme.shop", handlers={}, problems=["first", "second"])
    done = run("reload", "--wait")
    assert (done.exit_code, done.stdout) == (5, "")
    assert done.stderr.splitlines()[1:] == [
        "Directive.yaml:3:1: key: first",
        "Directive.yaml:3:1: key: second",
        "Error: refused: Directive.yaml:3:1: key: first (and 1 more); generation 3 goes on",
    ]
    farm.app(identifier="com.acme.shop", handlers={}, problems=["\x1b[2J\x9b"])
    assert run("reload", "--wait").stderr.splitlines()[1:] == [
        "Directive.yaml:3:1: key: \\x1b[2J\\x9b",
        "Error: refused: Directive.yaml:3:1: key: \\x1b[2J\\x9b; generation 3 goes on",
    ]
    farm.app(identifier="com.acme.shop", handlers={}, takes_s=3)
    done = run("reload", "--wait", "--timeout", "0.2")
    assert done.exit_code == 5 and done.stderr.endswith("Error: reload: not done in time\n")


def test_stop(start_farm: StartFarm) -> None:
    """It ends when the farm has ended; a timeout names who is left, and the farm ends all the same."""
    farm = start_farm("com.acme.shop")
    farm.app(identifier="com.acme.shop", handlers={"slow": {"behaviour": "drains 0.8"}})
    assert run("reload", "--wait").exit_code == 0
    done = run("stop", "--timeout", "0.2")
    assert done.exit_code == 5 and done.stderr.endswith("Error: not ended in time; left: slow/0\n"), done.stderr
    done = run("stop")
    assert (done.exit_code, done.stdout) == (0, "stopped\n") and "waiting for slow/0" in done.stderr
    assert farm.end(1) == 0


def test_stop_of_a_farm_that_is_started_again(start_farm: StartFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one in the same folder, as a service manager would start it, is not waited for."""
    monkeypatch.setattr("atmo_farm.cli.operate.LOOK_S", 1.0)
    farm = start_farm("com.acme.shop")
    farm.app(identifier="com.acme.shop", handlers={"slow": {"behaviour": "drains 0.3"}})
    assert run("reload", "--wait").exit_code == 0
    done: list[Result] = []
    stopping = threading.Thread(target=lambda: done.append(run("stop", "--timeout", "8")))
    stopping.start()
    assert farm.end() == 0
    other = start_farm("com.acme.shop")
    stopping.join()
    assert (done[0].exit_code, done[0].stdout) == (0, "stopped\n"), done[0].output
    assert other.process is not None and other.process.poll() is None


def test_stop_when_the_monitor_is_killed_meanwhile(start_farm: StartFarm) -> None:
    """It waits for the end of the master then."""
    farm = start_farm("com.acme.shop")
    farm.app(identifier="com.acme.shop", handlers={"slow": {"behaviour": "drains 0.8"}})
    assert run("reload", "--wait").exit_code == 0
    (monitor,) = farm.children("monitor")
    command = [sys.executable, "-m", "atmo_farm", "stop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as stopping:
        farm.wait_for("stop by user id")
        os.kill(monitor, signal.SIGKILL)
        out, _ = stopping.communicate(timeout=20)
    assert (stopping.returncode, out) == (0, b"stopped\n")
    assert farm.end(1) == 0


def test_a_farm_that_does_not_answer(start_farm: StartFarm, user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor that is stopped, a farm without a control socket, a stale folder: each in words."""
    monkeypatch.setattr("atmo_farm.ipc.control.ANSWER_S", 0.3)
    monkeypatch.setattr("atmo_farm.cli.farm.CONNECT_S", 0.3)
    farm = start_farm("com.acme.shop")
    folder = user / "com.acme.shop"
    assert run("status").exit_code == 0
    (monitor,) = farm.children("monitor")
    os.kill(monitor, signal.SIGSTOP)
    done = run("status")
    assert done.exit_code == 5 and "monitor does not answer; it is stopped or overloaded" in done.stderr
    (folder / "control.sock").unlink()
    done = run("status")
    assert done.exit_code == 5 and f"the farm with pid {farm.pid} does not answer at {folder}" in done.stderr
    farm.signal(signal.SIGKILL)
    farm.end()
    assert (folder / "atmo-farm.pid").exists()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "control.sock"))
    done = run("status", "--run-dir", str(folder))
    assert done.exit_code == 4 and f"no farm runs in {folder}" in done.stderr


def test_looking_takes_no_lock(start_farm: StartFarm, user: Path) -> None:
    """The pid file says who runs only while that one does, and a start is never refused because somebody looked."""
    farm = start_farm("com.acme.shop")
    folder = user / "com.acme.shop"
    assert RunningFarm(folder).pid == farm.pid
    farm.signal(signal.SIGTERM)
    began = time.monotonic()
    while RunningFarm(folder).pid is not None:
        assert time.monotonic() - began < 5
    (folder / "atmo-farm.pid").write_text(f"{os.getpid()}\n")
    assert RunningFarm(folder).pid is None
    assert farm.end() == 0
