"""Which message is suspected when a process dies: a real master with trivial children that say whose guest runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.master.conftest import Farm

SUSPECT = "a message is suspected"


def ledger(farm: Farm) -> Any:
    path = farm.folder / "state" / "crashes.json"
    return json.loads(path.read_text()) if path.exists() else {}


@pytest.mark.parametrize("how", ["killed", "70"])
def test_an_unclean_death_is_counted(farm: Farm, how: str) -> None:
    """By a signal that the farm did not send, or by an exception that nobody expected: once for each death, and on the
    disk before the next process begins."""
    farm.start(echo={"behaviour": f"enters 4711 {how}"})
    for deaths in (1, 2, 3):
        assert farm.wait_for(SUSPECT)["number"] == "4711"
        assert ledger(farm) == {"echo": {"4711": deaths}}


def test_other_workers_of_the_handler_are_told(farm: Farm) -> None:
    """Those that run already, so that whoever gets the message knows; other handlers are not."""
    farm.start(echo={"behaviour": "enters 7 killed", "workers": 2}, other={"behaviour": "ok"})
    farm.wait_for(SUSPECT)
    told = farm.wait_for("told")
    assert (told["worker"], json.loads(told["words"])) == ("echo/1", {"command": "suspect", "number": 7, "deaths": 1})
    assert farm.count("told", worker="other/0") == 0


def test_it_outlives_the_master(farm: Farm) -> None:
    """A new one goes on counting where the old one was killed."""
    farm.start(echo={"behaviour": "enters 7 killed"})
    farm.wait_for(SUSPECT)
    assert farm.process is not None
    farm.process.kill()
    farm.process.wait()
    before = ledger(farm)["echo"]["7"]
    farm.start(echo={"behaviour": "enters 7 killed"})
    assert farm.wait_for(SUSPECT)["deaths"] == before + 1


@pytest.mark.parametrize("how", ["0", "1", "10", "12"])
def test_an_exit_is_no_suspicion(farm: Farm, how: str) -> None:
    """The process ended by itself: its guest did not do it."""
    farm.start(echo={"behaviour": f"enters 7 {how}"})
    farm.wait_for("worker ended")
    assert ledger(farm) == {} and farm.count(SUSPECT) == 0


def test_a_death_without_a_guest_is_no_suspicion(farm: Farm) -> None:
    """Nobody ran."""
    farm.start(echo={"behaviour": "enters 0 killed"})
    farm.wait_for("worker ended")
    assert ledger(farm) == {} and farm.count(SUSPECT) == 0


def test_what_the_farm_killed_is_no_suspicion(farm: Farm) -> None:
    """Neither for want of a heartbeat nor at the drain deadline, though a guest was running."""
    farm.start(echo={"behaviour": "blocks 7"})
    assert "no heartbeat" in farm.wait_for("worker ended")["cause"]
    farm.wait_for("worker ready")
    farm.signal(15)
    assert farm.end() == 0
    assert ledger(farm) == {} and farm.count(SUSPECT) == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"echo": {"x": 1}}', '{"echo": {"7": "1"}}', "[" * 100_000])
def test_a_corrupt_ledger_is_put_aside(farm: Farm, content: str) -> None:
    """The farm starts, says so, and counts from the beginning."""
    (farm.folder / "state").mkdir(mode=0o700)
    (farm.folder / "state" / "crashes.json").write_text(content)
    farm.start(echo={"behaviour": "enters 7 killed"})
    farm.wait_for("crash ledger is unreadable")
    assert farm.wait_for(SUSPECT)["deaths"] == 1
    assert (farm.folder / "state" / "crashes.broken").read_text() == content
