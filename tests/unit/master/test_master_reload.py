"""Reloads of a real master with trivial children."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from tests.unit.master.conftest import FAST, Farm


def pids(farm: Farm, handler: str) -> list[int]:
    return sorted(pid for pid, name in farm.children().items() if name.startswith(f"atmo {handler}/"))


def test_only_what_changed_is_replaced(farm: Farm) -> None:
    """Unchanged handlers keep their processes; changed ones get new ones, removed ones go, added ones come."""
    farm.start(same={"behaviour": "ok"}, changed={"behaviour": "ok"}, removed={"behaviour": "ok"})
    farm.wait_for("farm is up")
    same, changed = pids(farm, "same"), pids(farm, "changed")
    farm.app(handlers={"same": {"behaviour": "ok"}, "changed": {"behaviour": "ok 2"}, "added": {"behaviour": "ok"}})
    farm.signal(signal.SIGHUP)
    accepted = farm.wait_for("reload: generation 2 accepted")
    assert accepted["starting"] == "changed/0 added/0" and accepted["ending"] == "changed/0 removed/0"
    farm.wait_until(lambda: len(farm.children()) == 3 and not pids(farm, "removed"))
    assert pids(farm, "same") == same
    assert len(pids(farm, "changed")) == len(pids(farm, "added")) == 1
    assert pids(farm, "changed") != changed


def test_the_new_one_is_up_before_the_old_one_ends(farm: Farm) -> None:
    """There is no gap: the old process is told to drain only when the new one is ready."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    farm.app(handlers={"echo": {"behaviour": "slow 0.5"}})
    farm.signal(signal.SIGHUP)
    farm.wait_for("worker started")
    farm.wait_for("worker ready")
    farm.wait_for("reload: in force")
    farm.wait_for("worker ended", cause="exit 0 (drained)")


def test_more_and_fewer_workers_leave_the_others_alone(farm: Farm) -> None:
    """`workers` from 2 to 4 to 1: the processes that stay are the same."""
    farm.start(echo={"behaviour": "ok", "workers": 2})
    farm.wait_for("farm is up")
    before = set(pids(farm, "echo"))
    for workers in (4, 1):
        farm.app(handlers={"echo": {"behaviour": "ok", "workers": workers}})
        farm.signal(signal.SIGHUP)
        farm.wait_for("reload: in force")
        farm.wait_until(lambda workers=workers: len(pids(farm, "echo")) == workers)
        assert before <= set(pids(farm, "echo")) or set(pids(farm, "echo")) <= before


def test_a_problem_keeps_the_old_one_untouched(farm: Farm) -> None:
    """Every problem is named, no process changes, and the next reload works; 10 of them."""
    farm.start(echo={"behaviour": "ok", "workers": 2})
    farm.wait_for("farm is up")
    before = pids(farm, "echo")
    for number in range(10):
        farm.app(handlers={}, problems=[f"problem {number}", "another"])
        sent_at = time.monotonic()
        farm.signal(signal.SIGHUP)
        farm.wait_for(f"reload: Directive.yaml:3:1: key: problem {number}")
        farm.wait_for("reload: Directive.yaml:3:1: key: another")
        assert time.monotonic() - sent_at < 1
        farm.wait_for("reload refused")
    assert pids(farm, "echo") == before
    farm.app(handlers={"echo": {"behaviour": "ok 2"}})
    farm.signal(signal.SIGHUP)
    farm.wait_for("reload: in force")


def test_a_helper_that_dies_or_hangs_refuses_the_reload(farm: Farm) -> None:
    """The farm serves on meanwhile and afterwards."""
    farm.settings(**{**FAST, "load_timeout_s": 0.5})
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    before = farm.children()
    for content in ({"dies": True}, {"takes_s": 60}):
        farm.app(handlers={}, **content)
        farm.signal(signal.SIGHUP)
        farm.wait_for("reload refused")
    assert farm.children() == before


def test_what_cannot_boot_is_rolled_back(farm: Farm) -> None:
    """The old handlers never stop, the new ones end, and the record of the refused generation says why."""
    farm.start(echo={"behaviour": "ok"}, other={"behaviour": "ok"})
    farm.wait_for("farm is up")
    before = farm.children()
    farm.app(handlers={"echo": {"behaviour": "fail bad luck"}, "other": {"behaviour": "ok 2"}})
    farm.signal(signal.SIGHUP)
    rolled_back = farm.wait_for("reload: generation 2 was rolled back")["message"]
    assert "echo/0 cannot boot: bad luck; generation 1 goes on" in rolled_back
    farm.wait_until(lambda: farm.children() == before)
    generations = farm.folder / "state" / "generations"
    assert "bad luck" in json.loads((generations / "2.json").read_text())["refused"]
    assert not (generations / "2.zip").exists() and (generations / "1.zip").exists()


def test_what_does_not_get_ready_in_time_is_rolled_back(farm: Farm) -> None:
    """A new handler that hangs, or dies again and again, costs the boot timeout."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    before = farm.children()
    for behaviour in ("hang", "crash"):
        farm.app(handlers={"echo": {"behaviour": behaviour}})
        farm.signal(signal.SIGHUP)
        farm.wait_for("reload: generation")
        assert "not ready after 2 s: echo/0" in farm.wait_for("reload: generation")["message"]
        farm.wait_until(lambda: farm.children() == before)


def test_a_reload_has_time_as_long_as_it_gets_on(farm: Farm) -> None:
    """Hundreds of workers take longer than one may: the time begins anew with each that is up."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    farm.app(handlers={"one": {"behaviour": "slow 1.8"}, "other": {"behaviour": "late 6"}})
    farm.signal(signal.SIGHUP)
    farm.wait_for("reload: in force")
    assert farm.count("worker started", worker="other/0") == 6


def test_waiting_for_a_broker_is_good_enough_for_a_reload(farm: Farm) -> None:
    """A broker that is away keeps no new Directive from being served."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    farm.app(handlers={"echo": {"behaviour": "wait refused"}})
    farm.signal(signal.SIGHUP)
    farm.wait_for("worker waits")
    farm.wait_for("reload: in force")


def test_a_storm_of_hups_ends_with_the_last_file(farm: Farm) -> None:
    """200 in 2 s: coalesced, at most two generations at a time, no descriptor lost, the last file wins."""
    farm.start(echo={"behaviour": "ok"}, same={"behaviour": "ok"})
    farm.wait_for("farm is up")
    same = pids(farm, "same")
    descriptors = len(list(Path(f"/proc/{farm.pid}/fd").iterdir()))
    most = 0
    for number in range(200):
        farm.app(handlers={"echo": {"behaviour": f"ok {number}"}, "same": {"behaviour": "ok"}})
        farm.signal(signal.SIGHUP)
        most = max(most, len(farm.children()))
        time.sleep(0.01)
    bundle = '{"handlers": {"echo": {"behaviour": "ok 199"}, "same": {"behaviour": "ok"}}}'
    generations = farm.folder / "state" / "generations"
    farm.wait_until(lambda: any(path.read_text() == bundle for path in generations.glob("*.zip")))
    farm.wait_until(lambda: sorted(farm.children().values()) == ["atmo echo/0", "atmo same/0"])
    farm.wait_until(lambda: len(list(Path(f"/proc/{farm.pid}/fd").iterdir())) == descriptors)
    assert pids(farm, "same") == same
    assert most <= 4  # two of echo, one of same, a helper
    assert len(list(generations.glob("*.zip"))) <= 6


def test_sigterm_during_a_reload_ends_at_once(farm: Farm) -> None:
    """While the helper works, and while new workers boot."""
    for content in ({"takes_s": 60}, {"handlers": {"echo": {"behaviour": "slow 0.3"}}}):
        farm.start(echo={"behaviour": "ok"})
        farm.wait_for("farm is up")
        farm.app(**{"handlers": {}, **content})
        farm.signal(signal.SIGHUP)
        farm.wait_for("reload: checking")
        if "handlers" in content:
            farm.wait_for("worker started")
        farm.signal(signal.SIGTERM)
        assert farm.end(2) == 0


def test_a_child_killed_during_a_reload_is_replaced(farm: Farm) -> None:
    """Supervision does not wait for the helper."""
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    farm.app(handlers={"echo": {"behaviour": "ok 2"}}, takes_s=1)
    farm.signal(signal.SIGHUP)
    farm.wait_for("reload: checking")
    os.kill(pids(farm, "echo")[0], signal.SIGKILL)
    farm.wait_for("worker ready")
    farm.wait_for("reload: generation 2 accepted")


def test_one_that_dies_when_it_is_ready_puts_nothing_in_force(farm: Farm) -> None:
    """Its word arrives, and it is gone: the master looks once more before it lets the old ones go."""
    farm.settings(**{**FAST, "boot_timeout_s": 0.5})
    farm.start(echo={"behaviour": "ok"})
    farm.wait_for("farm is up")
    before = pids(farm, "echo")
    for number in range(3):
        farm.app(handlers={"echo": {"behaviour": f"die {number}"}})
        farm.signal(signal.SIGHUP)
        farm.wait_for("reload: checking")
        farm.wait_until(lambda number=number: farm.count("reload: generation", level="error") == number + 1)
        assert not farm.count("reload: in force")
        assert pids(farm, "echo") == before


def test_a_helper_holds_nothing_of_the_master(farm: Farm) -> None:
    """Its channel is its own: of the master's sockets, those of its workers among them, it has none."""
    farm.start(echo={"behaviour": "ok", "workers": 2})
    farm.wait_for("farm is up")
    farm.app(takes_s=5, handlers={"echo": {"behaviour": "ok"}})
    farm.signal(signal.SIGHUP)
    farm.wait_until(lambda: bool(farm.children("helper")))
    (helper,) = farm.children("helper")
    farm.wait_until(lambda: len(sockets(helper)) == 1)
    assert not sockets(helper) & sockets(farm.pid)


def sockets(pid: int) -> set[str]:
    """The kernel's names of a process's sockets."""
    found = (str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir())
    return {name for name in found if name.startswith("socket:")}
