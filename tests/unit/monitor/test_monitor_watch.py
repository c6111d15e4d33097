"""When `--watch` asks for a reload, look by look."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from atmo_farm.directive.footprint import footprint
from atmo_farm.errors import AtmoFarmError, TimedOut
from atmo_farm.monitor.farm import Farm
from atmo_farm.monitor.watch import Watch


class Master:
    """What a Watch needs of a farm. `answer`: what the next reload raises; else it is in force."""

    def __init__(self, source: Path):
        self.source = source
        self.footprints = [footprint(source)]
        """By generation, from 1."""
        self.asked = 0
        self.answer: Exception | None = None
        self.watch = Watch(cast(Farm, self), source)

    def generation(self) -> int:
        return len(self.footprints)

    def history(self) -> list[dict[str, Any]]:
        return [{"generation": number, "footprint": one} for number, one in enumerate(self.footprints, 1)]

    async def ask(self, verb: str, cause: str, progress: object) -> Mapping[str, Any]:
        assert (verb, cause) == ("reload", "watch") and progress is not None
        self.asked += 1
        if self.answer is not None:
            raise self.answer
        self.footprints.append(footprint(self.source))
        return {}

    def look(self) -> int:
        """Once; how often it has ever asked."""
        try:
            asyncio.run(self.watch.look())
        except AtmoFarmError as error:
            assert error is self.answer
        return self.asked


@pytest.fixture
def master(tmp_path: Path) -> Master:
    source = tmp_path / "app.zip"
    source.write_text("1")
    return Master(source)


def test_a_change_is_loaded_when_it_has_stayed_for_a_look(master: Master) -> None:
    """Once; a copy that goes on is waited for."""
    assert [master.look(), master.look()] == [0, 0], "nothing has changed since the generation in force was read"
    for size in range(2, 6):
        master.source.write_text("x" * size)
        assert master.look() == 0
    assert [master.look(), master.look(), master.look()] == [1, 1, 1]
    master.source.write_text("again")
    assert [master.look(), master.look(), master.look()] == [1, 2, 2]


def test_what_is_away_is_waited_for(master: Master) -> None:
    """For a moment there may be no bundle."""
    text = master.source.read_text()
    master.source.unlink()
    assert [master.look(), master.look()] == [0, 0]
    master.source.write_text(text)
    assert [master.look(), master.look()] == [0, 1]


def test_a_refusal_is_not_asked_for_again(master: Master) -> None:
    """Before it changes, as anything else; what is as it was needs no reload."""
    before = master.source.with_name("before")
    master.source.rename(before)
    master.source.write_text("broken")
    master.answer = AtmoFarmError("refused")
    assert [master.look(), master.look(), master.look(), master.look()] == [0, 1, 1, 1]
    broken = master.source.with_name("broken")
    master.source.rename(broken)
    before.rename(master.source)
    assert [master.look(), master.look()] == [1, 1]
    broken.rename(master.source)
    assert [master.look(), master.look()] == [1, 2], "it was as it should be meanwhile: the reason may be gone"
    master.source.write_text("mended")
    master.answer = None
    assert [master.look(), master.look()] == [2, 3]


def test_a_master_that_has_not_heard_is_asked_again(master: Master) -> None:
    """It was busy, or stood."""
    master.source.write_text("new")
    master.answer = TimedOut("the master does not answer")
    assert [master.look(), master.look(), master.look()] == [0, 1, 2]
    master.answer = None
    assert [master.look(), master.look()] == [3, 3]


def test_what_others_have_loaded_is_not_loaded_again(master: Master) -> None:
    """By a signal; and after a rollback the source stays as it is, for it has not changed."""
    master.source.write_text("new")
    master.look()
    master.footprints += [footprint(master.source)]
    assert [master.look(), master.look()] == [0, 0]
    master.footprints += [footprint(master.source)]
    assert [master.look(), master.look()] == [0, 0]


def test_who_comes_later_sees_what_has_changed_before(master: Master) -> None:
    """A monitor that takes over from one that was killed; also a change back to what the one before was read from."""
    first = master.source.with_name("first")
    master.source.rename(first)
    master.source.write_text("new")
    assert [master.look(), master.look()] == [0, 1]
    first.rename(master.source)
    master.watch = Watch(cast(Farm, master), master.source)
    assert [master.look(), master.look()] == [1, 2]
