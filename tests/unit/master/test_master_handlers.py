"""The verbs of one handler at the control socket: a real master and a real monitor, with trivial consumers."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from atmo_farm.errors import AtmoFarmError, NotFound, TimedOut
from tests.unit.master.conftest import Farm
from tests.unit.master.test_master_control import SETTINGS, Asking, connect


@pytest.fixture
def started(farm: Farm) -> Farm:
    """`echo` with two workers, and another handler."""
    farm.settings(**SETTINGS)
    farm.start(echo={"behaviour": "ok", "workers": 2}, other={"behaviour": "ok"})
    farm.wait_for("farm is up")
    return farm


def ask(farm: Farm, verb: str, handler: str = "echo", **args: Any) -> dict[str, Any]:
    with connect(farm) as client:
        return client.ask(verb, {"handler": handler, **args})


def entry(farm: Farm, handler: str = "echo") -> dict[str, Any]:
    with connect(farm) as client:
        return next(one for one in client.ask("status")["handlers"] if one["name"] == handler)


def reload(farm: Farm, **handlers: Any) -> None:
    farm.app(handlers=handlers)
    with connect(farm) as client:
        client.ask("reload")


def test_a_name_that_is_wrong(started: Farm) -> None:
    """Exit code 4 and the one that was meant, for each verb; a request that makes no sense: 2."""
    for verb in ("restart", "pause", "resume", "drain"):
        with pytest.raises(NotFound, match="no handler 'ecoh'; did you mean echo"):
            ask(started, verb, "ecoh")
    with pytest.raises(NotFound, match="there is echo, other"):
        ask(started, "scale", "zzz", workers=1)
    for args in ({"workers": 0}, {"workers": 1001}, {"workers": 10**30}, {"workers": "2"}, {}):
        with pytest.raises(AtmoFarmError) as raised:
            ask(started, "scale", **args)
        assert raised.value.exit_code == 2
    assert started.count("worker started") == 4 and not started.count("worker ended")


def test_restart(started: Farm) -> None:
    """New processes are ready before the old ones are told to end; nobody else is touched. Progress tells how far."""
    before, other = set(started.children("echo")), set(started.children("other"))
    asking = Asking(started, "restart", handler="echo")
    result = asking.end()
    after = set(started.children("echo"))
    assert len(after) == 2 and not after & before and set(started.children("other")) == other
    assert result == {"generation": 1, "changes": "echo: 2 started, 2 ended"}
    assert [stage for stage in asking.stages() if stage != "starting"] == ["asked", "restarting", "draining"]
    found = entry(started)
    assert (found["ready"], found["wanted"], found["restarts"], found["received"]) == (2, 2, 0, 4)


def test_restart_of_what_cannot_boot(farm: Farm) -> None:
    """The old ones stay, and the error says why; during it the farm is as ready as before."""
    farm.settings(**SETTINGS)
    farm.start(echo={"behaviour": "once"}, other={"behaviour": "ok"})
    farm.wait_for("farm is up")
    before = set(farm.children("echo"))
    with pytest.raises(TimedOut, match="echo/0 cannot boot: not again; generation 1 goes on"):
        ask(farm, "restart")
    assert set(farm.children("echo")) == before
    assert entry(farm)["ready"] == entry(farm)["wanted"] == 1


def test_scale(started: Farm) -> None:
    """Up and down; over a reload that leaves `workers` alone; what the Directive says anew holds again."""
    before = set(started.children("echo"))
    assert ask(started, "scale", workers=3)["changes"] == "echo: 1 started, 0 ended"
    assert before < set(started.children("echo")) and len(started.children("echo")) == 3
    assert (entry(started)["wanted"], entry(started)["scaled_from"]) == (3, 2)
    reload(started, echo={"behaviour": "ok 2", "workers": 2}, other={"behaviour": "ok"})
    assert len(started.children("echo")) == 3 and entry(started)["scaled_from"] == 2
    assert ask(started, "scale", workers=1)["changes"] == "echo: 0 started, 2 ended"
    assert [worker["number"] for worker in entry(started)["workers"]] == [0]
    reload(started, echo={"behaviour": "ok 2", "workers": 4}, other={"behaviour": "ok"})
    assert len(started.children("echo")) == 4 and entry(started)["scaled_from"] is None
    reload(started, echo={"behaviour": "ok 2", "workers": 2}, other={"behaviour": "ok"})
    assert len(started.children("echo")) == 2
    assert ask(started, "scale", workers=2)["changes"] == "echo: 0 started, 0 ended"


def test_pause_and_resume(started: Farm) -> None:
    """All workers are told; it holds over a death, a reload, a restart and more workers, until it is resumed."""
    assert ask(started, "pause") == {"handler": "echo", "changed": True, "kept": False}
    assert not ask(started, "pause")["changed"]
    found = entry(started)
    assert (found["state"], found["paused"], found["ready"], found["wanted"]) == ("paused", True, 2, 2)
    assert entry(started, "other")["state"] == "ready"
    os.kill(next(iter(started.children("echo"))), signal.SIGKILL)
    started.wait_for("worker ready", worker=started.wait_for("worker ended")["worker"])
    started.wait_until(lambda: entry(started)["state"] == "paused" and entry(started)["ready"] == 2)
    reload(started, echo={"behaviour": "ok 2", "workers": 2}, other={"behaviour": "ok"})
    assert entry(started)["state"] == "paused"
    ask(started, "restart")
    ask(started, "scale", workers=3)
    assert entry(started)["state"] == "paused" and entry(started)["ready"] == 3
    with connect(started) as client:
        assert client.ask("status", {"wait": "ready"})["farm"]["state"] == "ready"
    assert ask(started, "resume")["changed"]
    assert entry(started)["state"] == "ready" and not entry(started)["paused"]
    assert ask(started, "drain")["changed"]
    reload(started, other={"behaviour": "ok"})
    reload(started, echo={"behaviour": "ok"}, other={"behaviour": "ok"})
    assert entry(started)["state"] == "ready"  # another handler of that name


def test_who_does_not_obey_is_waited_for(farm: Farm) -> None:
    """Until it does, or somebody wants the opposite; who waits is told of whom."""
    farm.settings(**SETTINGS)
    farm.start(echo={"behaviour": "deaf"})
    farm.wait_for("farm is up")
    pausing = Asking(farm, "pause", handler="echo")
    farm.wait_until(lambda: {"left": {"echo/0": 0}} in pausing.told)
    ask(farm, "resume")
    pausing.join(10)
    assert isinstance(pausing.error, TimedOut) and "somebody turned it meanwhile" in str(pausing.error)


def test_one_change_at_a_time(farm: Farm) -> None:
    """Restarts, scalings and reloads wait for each other, each gets its own result; a stop refuses those that wait."""
    farm.settings(**SETTINGS)
    farm.start(echo={"behaviour": "slow 0.3", "workers": 2})
    farm.wait_for("farm is up")
    askings = [Asking(farm, "restart", handler="echo")]
    farm.wait_for("restarting echo")
    askings += [Asking(farm, "scale", handler="echo", workers=1), Asking(farm, "reload")]
    for asking in askings[1:]:
        farm.wait_until(lambda asking=asking: asking.stages() == ["asked"])
    os.kill(next(iter(farm.children("echo"))), signal.SIGKILL)
    results = [asking.end() for asking in askings]
    assert results[0]["changes"] == "echo: 2 started, 2 ended"
    assert results[1]["changes"] == "echo: 0 started, 1 ended" and results[2]["generation"] == 2
    assert len(farm.children("echo")) == 1
    restart, scale = Asking(farm, "restart", handler="echo"), Asking(farm, "scale", handler="echo", workers=2)
    farm.wait_until(lambda: scale.stages() == ["asked"] and "restarting" in restart.stages())
    with connect(farm) as client:
        client.ask("stop")
    assert farm.end() == 0
    for asking in (restart, scale):
        asking.join(10)
        assert "the farm was told to stop" in str(asking.error)
