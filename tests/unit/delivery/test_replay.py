"""Replays and purges, with places in memory: which letters are meant, what goes out, and that nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs
import pytest

from atmo_farm import clock
from atmo_farm.delivery.letters import Match
from atmo_farm.delivery.replay import Job, Wanted, Way, again
from atmo_farm.errors import PublishError, TimedOut
from atmo_farm.streams.base import Kept, Output
from tests.streams import run

WHO = "com.example.a.h"
WAY = Way(("in.*",))


def kept(number: int, *headers: tuple[str, str]) -> Kept:
    own = (("Atmo-Dead-Origin", f"in.{number}"), ("Atmo-Dead-Cause", "odd" if number % 2 else "even"))
    return Kept(str(number), f"m{number}.{WHO}.dead", (("X", "y"), *own, *headers), 4, float(number), data=b"data")


class Memory:
    """`streams.base.Letters` in a dict."""

    def __init__(self, *letters: Kept):
        self.all = {letter.id: letter for letter in letters}

    async def letters(self, since_s: float | None = None) -> AsyncIterator[Kept]:
        for letter in list(self.all.values()):
            if since_s is None or letter.kept_s >= since_s:
                yield attrs.evolve(letter, data=b"")

    async def load(self, letter_id: str) -> Kept | None:
        return self.all.get(letter_id)

    async def remove(self, letter_id: str) -> bool:
        return self.all.pop(letter_id, None) is not None


class Outside:
    """Where replays go; it refuses those on `refused` subjects."""

    def __init__(self, **refused: PublishError):
        self.sent: list[Output] = []
        self.refused = refused

    async def send(self, output: Output) -> None:
        if error := self.refused.get(output.subject.replace(".", "_")):
            raise error
        self.sent.append(output)


class Told(list[Mapping[str, Any]]):
    """Progress."""

    async def __call__(self, what: Mapping[str, Any]) -> None:
        self.append(what)


def job(
    place: Memory, told: Told | None = None, *, rate: float | None = None, dry_run: bool = False, **wanted: Any
) -> Job:
    return Job([Memory(), place], Wanted(WHO, **wanted), Told() if told is None else told, rate, dry_run)


def test_a_replay_publishes_and_removes() -> None:
    """To where each came from, in order, with the original's headers and payload, a count, whom it is for, an id."""
    place, outside = Memory(*map(kept, range(3))), Outside()
    work = job(place)
    run(work.replay(WAY, outside.send))
    assert not place.all
    assert work.counts.told() == {"done": 3, "passed_over": 0, "failed": 0, "gone": 0}
    assert [output.subject for output in outside.sent] == ["in.0", "in.1", "in.2"]
    first = outside.sent[0]
    assert (first.data, first.original) == (b"data", (("X", "y"),))
    assert first.headers == {"Atmo-Replays": "1", "Atmo-Replay-For": "com.example.a.h"}


def test_another_subject_is_for_whoever_listens_there() -> None:
    """With `--to` it is meant for no handler in particular."""
    output = again(kept(1), attrs.evolve(WAY, to="other"), WHO)
    assert (output.subject, output.headers) == ("other", {"Atmo-Replays": "1"})


def test_only_the_handlers_own() -> None:
    """Where several share a subject, also those of one name in two applications."""
    others = [attrs.evolve(kept(number), key=key) for number, key in ((1, "m.com.example.b.h.dead"), (2, "m.a.h.dead"))]
    by_hand = attrs.evolve(kept(3, ("Atmo-Dead-Handler", "h")), key="")
    place, outside = Memory(*others, kept(0), by_hand, attrs.evolve(kept(4), key="")), Outside()
    run(job(place).replay(WAY, outside.send))
    assert [output.subject for output in outside.sent] == ["in.0", "in.3"]
    run(job(place, id="1").purge())
    assert list(place.all) == ["1", "2", "4"]


def test_the_id_of_a_replay() -> None:
    """The same when it is repeated; another one for another letter, target or count."""
    letter = kept(1)
    ids = {
        again(letter, WAY, WHO).id,
        again(letter, WAY, WHO).id,
        again(kept(2), WAY, WHO).id,
        again(letter, attrs.evolve(WAY, to="x"), WHO).id,
        again(kept(1, ("Atmo-Replays", "1")), WAY, WHO).id,
    }
    assert len(ids) == 4


def test_a_crash_in_the_middle_loses_nothing() -> None:
    """Killed after it was published and before it is removed: it is there, and its repetition has the same id."""

    class Crash(Memory):
        async def remove(self, letter_id: str) -> bool:
            raise asyncio.CancelledError

    place, outside = Crash(kept(1)), Outside()
    with pytest.raises(asyncio.CancelledError):
        run(job(place).replay(WAY, outside.send))
    whole = Memory(*place.all.values())
    run(job(whole).replay(WAY, outside.send))
    assert len({output.id for output in outside.sent}) == 1
    assert not whole.all


def test_who_goes_away_leaves_nothing_half_done() -> None:
    """A replay that is cancelled while a letter is out still removes that letter, and no other."""

    class Slow(Outside):
        out = asyncio.Event()

        async def send(self, output: Output) -> None:
            self.out.set()
            await asyncio.sleep(0.01)
            await super().send(output)

    async def body() -> None:
        place, outside = Memory(*map(kept, range(3))), Slow()
        replay = asyncio.ensure_future(job(place).replay(WAY, outside.send))
        await outside.out.wait()
        replay.cancel()
        await asyncio.wait((replay,))
        assert [output.subject for output in outside.sent] == ["in.0"]
        assert list(place.all) == ["1", "2"]

    run(body())


def test_a_broker_that_goes_away_stops_it() -> None:
    """What was not sent is there, and it says how far it came."""
    place, outside = Memory(*map(kept, range(3))), Outside(in_1=PublishError("no broker", transient=True))
    with pytest.raises(TimedOut, match="no broker; 1 letters are done, the others are still there"):
        run(job(place).replay(WAY, outside.send))
    assert list(place.all) == ["1", "2"]


def test_one_that_can_never_be_sent_stays() -> None:
    """It is told, and the others go."""
    place, outside, told = (
        Memory(*map(kept, range(3))),
        Outside(in_1=PublishError("too large", transient=False)),
        Told(),
    )
    work = job(place, told)
    run(work.replay(WAY, outside.send))
    assert list(place.all) == ["1"]
    assert told == [{"failed": "1", "reason": "too large"}]
    assert (work.counts.done, work.counts.failed) == (2, 1)


@pytest.mark.parametrize("origin", ["in.a.b", "$JS.API.STREAM.DELETE.IN", ""])
def test_where_the_handler_does_not_listen(origin: str) -> None:
    """A letter may name anything as its origin: it stays, and is said so; `to` publishes it."""
    place, outside, told = Memory(kept(0, ("Atmo-Dead-Origin", origin))), Outside(), Told()
    work = job(place, told)
    run(work.replay(WAY, outside.send))
    assert (work.counts.failed, work.counts.done, outside.sent, len(place.all)) == (1, 0, [], 1)
    assert "say --to SUBJECT" in told[0]["reason"]
    run(job(place).replay(Way(WAY.listens, "elsewhere"), outside.send))
    assert [output.subject for output in outside.sent] == ["elsewhere"]


def test_the_maximum_of_replays() -> None:
    """A letter that was replayed so often is passed over, told, and stays; a larger maximum takes it."""
    place, outside, told = Memory(kept(1, ("atmo-replays", "3")), kept(2, ("Atmo-Replays", "2"))), Outside(), Told()
    work = job(place, told)
    run(work.replay(WAY, outside.send))
    assert [output.headers["Atmo-Replays"] for output in outside.sent] == ["3"]
    assert told == [{"passed_over": "1", "replays": 3}]
    assert (work.counts.done, work.counts.passed_over) == (1, 1)
    run(job(place).replay(attrs.evolve(WAY, max_replays=4), outside.send))
    assert not place.all


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        ({}, []),
        ({"limit": 2}, ["2", "3"]),
        ({"since_s": 2.0}, ["0", "1"]),
        ({"matches": (Match("cause=odd"),)}, ["0", "2"]),
        ({"matches": (Match("cause=odd"), Match("in.3"))}, ["0", "1", "2"]),
        ({"matches": (Match("cause=odd"),), "limit": 1}, ["0", "2", "3"]),
        ({"id": "2"}, ["0", "1", "3"]),
        ({"id": "9"}, ["0", "1", "2", "3"]),
    ],
)
def test_which_are_purged(wanted: dict[str, Any], left: list[str]) -> None:
    """All, so many, since then, those that match, or one."""
    place = Memory(*map(kept, range(4)))
    work = job(place, **wanted)
    run(work.purge())
    assert list(place.all) == left
    assert work.counts.done == 4 - len(left)
    dry = job(Memory(*map(kept, range(4))), dry_run=True, **wanted)
    run(dry.purge())
    assert dry.counts.done == work.counts.done


def test_a_dry_run_changes_nothing() -> None:
    """It counts what it would do, also what it would pass over."""
    place, outside = Memory(kept(1), kept(2, ("Atmo-Replays", "7"))), Outside()
    work = job(place, dry_run=True)
    run(work.replay(WAY, outside.send))
    assert (work.counts.done, work.counts.passed_over) == (1, 1)
    assert len(place.all) == 2
    assert not outside.sent


def test_one_that_somebody_else_takes_meanwhile() -> None:
    """Is counted, not sent."""

    class Thief(Memory):
        async def load(self, letter_id: str) -> Kept | None:
            return None if letter_id == "1" else self.all.get(letter_id)

    work, outside = job(Thief(*map(kept, range(3)))), Outside()
    run(work.replay(WAY, outside.send))
    assert (work.counts.done, work.counts.gone) == (2, 1)
    assert len(outside.sent) == 2


def test_the_rate() -> None:
    """So many in a second, from the first on."""
    outside = Outside()
    begin = clock.monotonic()
    run(job(Memory(*map(kept, range(6))), rate=50).replay(WAY, outside.send))
    assert 0.1 <= clock.monotonic() - begin < 1
