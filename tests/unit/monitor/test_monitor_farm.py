"""The monitor's view of the farm, on a real arena, with a master that is played."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from atmo_farm import clock
from atmo_farm.directive.model import Directive
from atmo_farm.errors import AtmoFarmError, TimedOut
from atmo_farm.ipc import cards, channel
from atmo_farm.ipc.arena import Arena, Field
from atmo_farm.ipc.cards import FarmCard, Kind, Life, WorkerCard
from atmo_farm.ipc.channel import ChildChannel, MasterChannel
from atmo_farm.ipc.messages import Ask, Told
from atmo_farm.monitor import farm as farm_module
from atmo_farm.monitor import report
from atmo_farm.monitor.context import MonitorContext
from atmo_farm.monitor.farm import Farm
from atmo_farm.settings import Settings

FARM = FarmCard("com.acme.shop", "v1", 3, 7, 0.0, "", "", 0)


class Made:
    """A farm of cards; the test is its master."""

    def __init__(self) -> None:
        self.arena = Arena()
        master_end, child_end = channel.pair()
        self.master = MasterChannel(master_end, "monitor/0")
        self.channel = ChildChannel(child_end)
        self.read: list[int] = []
        self.farm = Farm(
            MonitorContext(
                arena=self.arena,
                settings=Settings(),
                slot=self.arena.slot(4095),
                channel=child_end,
                path=Path("/nowhere"),
                state=Path("/nowhere"),
                generation=1,
                directive=self._directive,
                history=list,
            ),
            self.channel,
        )
        self.arena.farm[Field.HEARTBEAT_NS] = clock.monotonic_ns()

    def show(self, farm: FarmCard, *workers: WorkerCard) -> dict[str, Any]:
        """What the monitor reports of these cards."""
        for index, worker in enumerate(workers):
            cards.write(self.arena.slot(index), worker)
        cards.write(self.arena.farm, FarmCard(**{**_fields(farm), "slots": len(workers)}))
        return self.farm.report()

    def _directive(self, generation: int) -> Directive:
        self.read.append(generation)
        if generation == 9:
            raise AtmoFarmError("generation 9 was changed after it was accepted")
        return Directive(identifier=f"com.acme.g{generation}", app_version="v1", atmo_version="v0.4.7")


def _fields(card: FarmCard) -> dict[str, Any]:
    return {name: getattr(card, name) for name in FarmCard.__slots__ if not name.startswith("_")}


def worker(name: str, number: int = 0, life: Life = Life.READY, kind: Kind = Kind.CONSUMER) -> WorkerCard:
    return WorkerCard(kind, name, number, life, pid=100 + number)


async def _never(_: Mapping[str, Any]) -> None:
    raise AssertionError


def test_ready_is_what_the_generation_wants() -> None:
    """All workers but the monitor, and none that leaves; data sources too; a farm that does something else is not."""
    made = Made()
    assert report.unready(made.farm.report()) == ["starting"]
    both = [worker("a", 0), worker("a", 1)]
    monitor = worker("monitor", 0, Life.STARTING, Kind.MONITOR)
    assert report.unready(made.show(FARM, *both, monitor)) == []
    found = made.show(FARM, both[0], worker("a", 1, Life.STARTING), worker("a", 0, Life.DRAINING), monitor)
    assert report.unready(found) == ["not ready", "a: 1 of 2 ready, 1 ready, 1 starting"]
    proxy = worker("data-sources", 0, Life.DOWN, Kind.DATA_SOURCES)
    assert report.unready(made.show(FARM, *both, proxy)) == ["not ready", "data-sources: 0 of 1 ready, down"]
    for doing in ("starting", "reloading", "stopping"):
        assert report.unready(made.show(FarmCard(**{**_fields(FARM), "doing": doing}), *both))[0] == doing


def test_a_master_that_gives_no_sign_of_life_is_silent() -> None:
    """However ready its children are."""
    made = Made()
    made.arena.farm[Field.HEARTBEAT_NS] = clock.monotonic_ns() - 7_000_000_000
    found = made.show(FARM, worker("a"))
    assert found["farm"]["state"] == "silent" and 7 <= found["farm"]["master_silent_s"] < 20
    assert report.unready(found) == ["silent"]


def test_counts_are_summed_and_retired_ones_stay() -> None:
    """By handler over workers and retired slots; in the totals also over handlers that are gone."""
    made = Made()
    for index, count in enumerate((1, 10, 100, 1000)):
        made.arena.slot(index)[Field.OK] = count
        made.arena.slot(index)[Field.IN_FLIGHT] = count
    found = made.show(
        FARM,
        worker("a", 0),
        worker("a", 1),
        WorkerCard(Kind.CONSUMER, "a"),
        WorkerCard(Kind.CONSUMER, "gone"),
        worker("a", 0, kind=Kind.DATA_SOURCES),
    )
    (a,) = found["handlers"]
    assert (a["ok"], a["in_flight"], found["totals"]["ok"]) == (111, 11, 1111)
    assert [entry["kind"] for entry in found["processes"]] == ["data-sources"]


def test_the_directive_is_that_of_the_generation_in_force() -> None:
    """Read once for each; one that cannot be read says so, and is tried again."""
    made = Made()
    assert made.farm.directive().identifier == "com.acme.g1"
    made.show(FARM)
    assert [made.farm.directive().identifier for _ in range(3)] == ["com.acme.g3"] * 3
    made.show(FarmCard(**{**_fields(FARM), "generation": 9}))
    for _ in range(2):
        with pytest.raises(AtmoFarmError, match="was changed"):
            made.farm.directive()
    assert made.read == [1, 3, 9, 9]


def test_what_is_asked_of_the_master(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress, then the result or the error; words about what nobody asked are passed over; silence has an end."""

    async def main() -> None:
        made = Made()
        told: list[Mapping[str, Any]] = []

        async def progress(what: Mapping[str, Any]) -> None:
            told.append(what)

        async def asked(task: asyncio.Task[Any]) -> Ask:
            while not (heard := made.master.receive()):
                assert not task.done()
                await asyncio.sleep(0)
            (ask,) = heard
            assert isinstance(ask, Ask)
            return ask

        task = asyncio.ensure_future(made.farm.ask("reload", "why", progress))
        ask = await asked(task)
        assert (ask.verb, ask.cause) == ("reload", "why") and ask.id.startswith(f"{os.getpid()}.")
        for what in ({"progress": {"n": 1}}, {"progress": {"n": 2}}, {"result": {"generation": 2}}):
            made.farm.told(Told(["other", ask.id], what))
        assert await task == {"generation": 2} and told == [{"n": 1}, {"n": 2}]
        made.farm.told(Told([ask.id], {"result": {}}))
        task = asyncio.ensure_future(made.farm.ask("reload", "why", _never))
        made.farm.told(Told([(await asked(task)).id], {"error": "bad", "exit": 5}))
        with pytest.raises(TimedOut, match="bad"):
            await task
        task = asyncio.ensure_future(made.farm.ask("reload", "why", None))
        made.farm.told(Told([(await asked(task)).id], {"progress": {"stage": "asked"}}))
        assert await task == {}
        monkeypatch.setattr(farm_module, "ACK_S", 0.05)
        with pytest.raises(TimedOut, match="the master does not answer; its last sign of life was 0 s ago"):
            await made.farm.ask("stop", "why", _never)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_the_master_is_not_asked_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take that for a flood and kill the monitor."""
    monkeypatch.setattr(farm_module, "ACK_S", 0)

    async def main() -> None:
        made = Made()
        said = []
        while not said or "too often" not in said[-1]:
            with pytest.raises(TimedOut) as caught:
                await made.farm.ask("reload", "why", None)
            said.append(str(caught.value))
        assert 50 < len(said) < 60

    asyncio.run(main())
