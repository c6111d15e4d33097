"""What is asked at the control socket: a real master and a real monitor, with trivial consumers."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atmo_farm.errors import AtmoFarmError, TimedOut
from atmo_farm.ipc.control import ConnectionLost, ControlClient
from tests.unit.master.conftest import FAST, Farm

SETTINGS = {**FAST, "heartbeat_timeout_s": 10.0, "real_monitor": True}
"""A real monitor beats once a second."""


class Asking(threading.Thread):
    """One request, by a client of its own; `told` is its progress so far."""

    def __init__(self, farm: Farm, verb: str, **args: Any):
        super().__init__(daemon=True)
        self.told: list[Any] = []
        self.result: dict[str, Any] = {}
        self.error: AtmoFarmError | None = None
        self._client = connect(farm)
        self._request = (verb, args)
        self.start()

    def run(self) -> None:
        """Ask, and keep what comes."""
        verb, args = self._request
        try:
            with self._client as client:
                self.result = client.ask(verb, args, self.told.append)
        except AtmoFarmError as error:
            self.error = error

    def end(self) -> dict[str, Any]:
        """The result, when it is there."""
        self.join(15)
        assert not self.is_alive() and self.error is None, self.error
        return self.result

    def stages(self) -> list[str]:
        """Of a reload."""
        return [progress["stage"] for progress in self.told if "stage" in progress]


def connect(farm: Farm) -> ControlClient:
    """As soon as the monitor lets us in."""
    found: list[ControlClient] = []

    def listens() -> bool:
        try:
            found.append(ControlClient(farm.folder / "run" / "control.sock"))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    farm.wait_until(listens)
    return found[0]


def status(farm: Farm, **args: Any) -> dict[str, Any]:
    with connect(farm) as client:
        return client.ask("status", args)


def until(condition: Callable[[], object], farm: Farm) -> None:
    farm.wait_until(lambda: bool(condition()))


@pytest.fixture
def farm(farm: Farm) -> Iterator[Farm]:
    """With a real monitor."""
    farm.settings(**SETTINGS)
    return farm


def test_status_tells_of_every_worker(farm: Farm) -> None:
    """States, waits, failures, counts and restarts, each as the master knows it."""
    farm.start(
        echo={"behaviour": "drops", "workers": 2},
        waits={"behaviour": "wait connection refused"},
        fails={"behaviour": "fail no such module"},
    )

    def handlers() -> dict[str, Any]:
        return {entry["name"]: entry for entry in status(farm)["handlers"]}

    def settled() -> bool:
        found = handlers()
        if len(found) < 3:  # the first cards are not written yet
            return False
        return found["echo"]["ready"] == 2 and found["waits"]["state"] == "waiting" and bool(found["fails"]["failure"])

    status(farm)
    farm.wait_until(settled)
    found, by_name = status(farm), handlers()
    echo = by_name["echo"]
    assert (echo["state"], echo["ready"], echo["wanted"], echo["received"], echo["dropped"]) == ("ready", 2, 2, 2, 2)
    assert {worker["pid"] for worker in echo["workers"]} == set(farm.children("echo"))
    assert by_name["waits"]["state"] == "waiting"
    assert by_name["waits"]["waits_for"] == "nats default (connection refused)"
    fails = by_name["fails"]
    assert fails["failure"] == "no such module" and fails["ready"] == 0 and fails["restarts"] >= 1
    assert (found["farm"]["state"], found["farm"]["ready"], found["farm"]["wanted"]) == ("starting", 2, 4)
    assert found["farm"]["app"] == "com.example.fake" and found["farm"]["pid"] == farm.pid
    assert [entry["name"] for entry in found["processes"]] == ["monitor"]


def test_counts_outlive_what_counted_them(farm: Farm) -> None:
    """A killed child goes on where it was; a handler that is gone stays in the totals."""
    farm.start(echo={"behaviour": "ok"}, other={"behaviour": "ok", "workers": 2})
    farm.wait_for("farm is up")
    (pid,) = farm.children("echo")
    os.kill(pid, signal.SIGKILL)
    farm.wait_for("worker ready", worker="echo/0")
    until(lambda: status(farm, wait="ready")["handlers"][0]["restarts"] == 1, farm)
    assert status(farm)["handlers"][0]["received"] == 2
    farm.app(handlers={"echo": {"behaviour": "ok"}, "other": {"behaviour": "ok"}})
    Asking(farm, "reload").end()
    assert [entry["received"] for entry in status(farm)["handlers"]] == [2, 2]
    farm.app(handlers={"echo": {"behaviour": "ok"}})
    Asking(farm, "reload").end()
    found = status(farm)
    assert [entry["name"] for entry in found["handlers"]] == ["echo"] and found["totals"]["received"] == 4


def test_waiting_for_ready(farm: Farm) -> None:
    """Progress says what is not ready; the answer comes with the last worker, and at once when all are."""
    farm.start(echo={"behaviour": "ok"}, slow={"behaviour": "slow 0.5"})
    waiting = Asking(farm, "status", wait="ready")
    found = waiting.end()
    assert found["farm"]["state"] == "ready" and found["farm"]["ready"] == 2
    assert any("slow: 0 of 1 ready, starting" in progress["not_ready"] for progress in waiting.told)
    assert Asking(farm, "status", wait="ready").end()["farm"]["state"] == "ready"
    farm.app(handlers={"echo": {"behaviour": "wait refused"}, "slow": {"behaviour": "slow 0.5"}})
    Asking(farm, "reload").end()
    with connect(farm) as client, pytest.raises(TimedOut):
        client.ask("status", {"wait": "ready"}, deadline=time.monotonic() + 0.2)


def test_a_reload_and_its_stages(farm: Farm) -> None:
    """Each one is told as it begins; the result is the new generation."""
    farm.start(echo={"behaviour": "ok", "workers": 2}, same={"behaviour": "ok"})
    farm.wait_for("farm is up")
    (monitor,) = farm.children("monitor")
    farm.app(handlers={"echo": {"behaviour": "ok 2", "workers": 2}, "same": {"behaviour": "ok"}})
    asking = Asking(farm, "reload")
    assert asking.end()["generation"] == 2
    assert asking.stages()[:3] == ["asked", "checking", "accepted"] and asking.stages()[-1] == "in force"
    accepted = next(progress for progress in asking.told if progress.get("stage") == "accepted")
    assert (accepted["generation"], accepted["unchanged"], accepted["starting"]) == (2, 1, "echo/0 echo/1")
    assert {"stage": "starting", "up": 2, "of": 2} in asking.told
    assert list(farm.children("monitor")) == [monitor]
    farm.wait_for("reload: checking", cause=f"reload by user id {os.geteuid()}")
    with connect(farm) as client:
        assert client.ask("reload", {"wait": False}) == {}
    farm.wait_for("reload: in force")
    with connect(farm) as client:
        for number in range(5):
            farm.app(handlers={"echo": {"behaviour": f"ok {number}"}, "same": {"behaviour": "ok"}})
            generation = client.ask("reload")["generation"]
            shown = client.ask("status")["farm"]
            assert (shown["generation"], shown["state"]) == (generation, "ready")


def test_a_refused_reload_tells_every_problem(farm: Farm) -> None:
    """And what goes on; of a file that has no end of them, the first ones and how many more there are."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    before = farm.children()
    for count, char in ((3, "x"), (1000, "x"), (200, "\U0001f600")):
        farm.app(handlers={}, problems=[f"problem {number} {char * 900}" for number in range(count)])
        asking = Asking(farm, "reload")
        asking.join(15)
        assert asking.error is not None and asking.error.exit_code == 5
        assert str(asking.error).startswith("refused: Directive.yaml:3:1: key: problem 0")
        assert str(asking.error).endswith("; generation 1 goes on")
        problems = [progress["problem"] for progress in asking.told if "problem" in progress]
        if count > 3:
            assert problems.pop() == f"and {count - len(problems)} more; the log has them all" and len(problems) >= 25
        assert [problem.split()[3] for problem in problems] == [str(number) for number in range(len(problems))]
        assert len(problems) == 3 or count > 3
    assert farm.children() == before
    assert status(farm)["farm"]["note"].startswith("last reload refused: Directive.yaml")


def test_a_reload_that_is_rolled_back(farm: Farm) -> None:
    """The error says which worker cannot boot and why; the old generation goes on."""
    farm.start(echo={"behaviour": "ok"}, other={"behaviour": "ok"})
    farm.wait_for("farm is up")
    before = farm.children()
    farm.app(handlers={"echo": {"behaviour": "fail bad luck"}, "other": {"behaviour": "ok"}})
    asking = Asking(farm, "reload")
    asking.join(15)
    assert asking.error is not None and asking.error.exit_code == 5
    said = "generation 2 was rolled back: echo/0 cannot boot: bad luck; generation 1 goes on"
    assert str(asking.error) == said and "rolling back" in asking.stages()
    assert farm.children() == before


def test_a_reload_that_is_asked_for_during_another(farm: Farm) -> None:
    """It is one more after it, for all who asked meanwhile; each gets the result of the one that saw its request."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    farm.app(handlers={"echo": {"behaviour": "slow 0.7"}})
    first = Asking(farm, "reload")
    until(lambda: "accepted" in first.stages(), farm)
    farm.app(handlers={}, problems=["too late"])
    later = [Asking(farm, "reload") for _ in range(3)]
    until(lambda: all(asking.stages() == ["asked"] for asking in later), farm)
    assert first.end()["generation"] == 2
    for asking in later:
        asking.join(15)
        assert asking.error is not None and "too late" in str(asking.error)
    assert farm.count("reload: checking") == 2
    farm.signal(signal.SIGHUP)
    farm.wait_for("reload: checking", cause="SIGHUP")


def test_a_reload_goes_on_without_who_asked(farm: Farm) -> None:
    """A client that goes, or a monitor that is killed, takes nothing back; the new monitor knows all."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    (pid,) = farm.children("monitor")
    farm.app(handlers={"echo": {"behaviour": "ok 2"}}, takes_s=0.5)
    asking = Asking(farm, "reload")
    until(lambda: "checking" in asking.stages(), farm)
    os.kill(pid, signal.SIGKILL)
    asking.join(15)
    assert isinstance(asking.error, ConnectionLost)
    farm.wait_for("reload: in force")
    found = status(farm, wait="ready")
    assert found["farm"]["generation"] == 2 and found["processes"][0]["restarts"] == 1
    assert list(farm.children("monitor")) != [pid]


def test_stop_tells_whom_it_waits_for(farm: Farm) -> None:
    """The answer comes when nobody but master and monitor is left; a second one changes nothing."""
    farm.settings(**{**SETTINGS, "drain_deadline_s": 5.0})
    farm.start(quick={"behaviour": "ok"}, slow={"behaviour": "drains 0.7"})
    farm.wait_for("farm is up")
    asking = [Asking(farm, "stop") for _ in range(2)]
    farm.wait_for(f"stop by user id {os.geteuid()}: draining")
    refused = Asking(farm, "reload")
    for one in asking:
        assert one.end() == {"stopped": True}
        assert {"left": {"slow/0": 0}} in one.told
    assert str(refused.error) == "the farm is stopping"
    assert farm.end() == 0
    assert farm.count("worker ended", cause="exit 0 (drained)") == 3
    assert not (farm.folder / "run" / "control.sock").exists()


def test_a_second_sigterm_ends_the_monitor_as_well(farm: Farm) -> None:
    """Whoever waited for the end sees that it is lost. The first one after an asked-for stop cuts nothing off:
    it may be the service manager's."""
    farm.settings(**{**SETTINGS, "drain_deadline_s": 60})
    farm.start(bad={"behaviour": "stubborn"})
    farm.wait_for("farm is up")
    asking = Asking(farm, "stop")
    farm.wait_for("stop by user id")
    farm.signal(signal.SIGTERM)
    farm.wait_for("SIGTERM: draining")
    assert farm.children("bad")
    farm.signal(signal.SIGTERM)
    assert farm.end(2) == 0
    asking.join(5)
    assert isinstance(asking.error, ConnectionLost)


def test_a_stop_during_a_reload(farm: Farm) -> None:
    """Who waits for the reload is told."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    farm.app(handlers={}, takes_s=60)
    asking = Asking(farm, "reload")
    until(lambda: "checking" in asking.stages(), farm)
    later = Asking(farm, "reload")
    until(lambda: later.stages() == ["asked"], farm)
    assert Asking(farm, "stop").end() == {"stopped": True}
    assert str(asking.error) == str(later.error) == "the farm was told to stop"
    assert farm.end() == 0


def test_only_the_monitor_may_ask(farm: Farm) -> None:
    """A consumer that wants to stop the farm is not heard."""
    farm.start(bad={"behaviour": "asks"})
    farm.wait_for("not heard", worker="bad/0", asks="stop")
    farm.wait_until(lambda: farm.count("farm is up") == 1)
    assert farm.count("stop") == 0 and len(farm.children("bad")) == 1


def test_a_monitor_that_cannot_listen_costs_nothing_else(farm: Farm) -> None:
    """The farm is up without it, the status says why it is not there, and it is, once it can be."""
    farm.listen()
    obstacle = farm.folder / "run" / "control.sock" / "in the way"
    (farm.folder / "run").mkdir(mode=0o700)
    obstacle.mkdir(parents=True)
    farm.start(echo={"behaviour": "ok"})
    said = ""
    while "not getting ready: monitor/0" not in said:
        said = farm.notified()[0]
    assert "1 of 1 ready" in said and "control.sock cannot be used: Is a directory" in said
    assert farm.count("farm is up") == 1
    obstacle.rmdir()
    obstacle.parent.rmdir()
    assert status(farm)["farm"]["state"] == "ready"


def test_reloads_of_an_impatient_client_are_bounded(farm: Farm) -> None:
    """Hundreds of requests, each given up at once: the master serves on, and hears only some of them."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    farm.app(handlers={"echo": {"behaviour": "ok"}}, takes_s=0.3)
    (monitor,) = farm.children("monitor")
    lines = b"".join(json.dumps({"id": number, "verb": "reload"}).encode() + b"\n" for number in range(10))
    for _ in range(60):
        with connect(farm) as client:
            client._socket.sendall(lines)
    assert status(farm)["farm"]["wanted"] == 1
    farm.wait_for("reload: in force")
    farm.wait_until(lambda: status(farm)["farm"]["state"] == "ready")
    assert farm.count("reload: checking") <= 6
    assert list(farm.children("monitor")) == [monitor]


def test_a_lost_answer_leaves_nobody_waiting(farm: Farm) -> None:
    """More than the channel has room for, for a monitor that stands: those who asked are hung up on."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    (monitor,) = farm.children("monitor")
    farm.app(problems=["p"] * 1000, takes_s=0.3)
    first = Asking(farm, "reload")
    until(lambda: "checking" in first.stages(), farm)
    clients = [connect(farm) for _ in range(3)]
    for client in clients:
        client._socket.sendall(b"".join(b'{"id": "%s", "verb": "reload"}\n' % (b"x" * number) for number in range(16)))
    farm.wait_until(lambda: farm.count("reload: checking") == 2)
    os.kill(monitor, signal.SIGSTOP)
    farm.wait_until(lambda: farm.count("reload refused; generation 1 goes on") == 2)
    for client in clients:
        client._socket.settimeout(5)
        while client._socket.recv(1 << 16):
            pass
    farm.wait_until(lambda: farm.children("monitor") not in ([], [monitor]))
    assert status(farm)["farm"]["state"] == "ready"


def test_descriptors_stay_as_they_are(farm: Farm) -> None:
    """Clients that come and go, and monitors that are replaced, leave nothing behind in the master."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    status(farm)

    def descriptors(pid: int) -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    (monitor,) = farm.children("monitor")
    before = descriptors(farm.pid), descriptors(monitor)
    for _ in range(30):
        status(farm)
    # those of the first client may have been counted: its end is seen a moment later
    farm.wait_until(lambda: descriptors(farm.pid) <= before[0] and descriptors(monitor) <= before[1])
    os.kill(monitor, signal.SIGKILL)
    farm.wait_for("worker ready", worker="monitor/0")
    farm.wait_until(lambda: descriptors(farm.pid) <= before[0])
