"""Dead letters as a whole: which are meant, and what it is to replay or purge them.

A replay publishes the original again, then removes the letter. Its message id is made of the letter and the count of
replays, so that one that is repeated after a crash in between is the same message again, and a stream that has it says
so. What dies again carries its count on; a letter that was replayed too often is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import attrs

from atmo_farm import clock
from atmo_farm.delivery.dead_letters import REPLAY_FOR, REPLAYS
from atmo_farm.delivery.letters import Letter, Match
from atmo_farm.errors import PublishError, TimedOut
from atmo_farm.streams import subjects
from atmo_farm.streams.base import Kept, Letters, Output

TELL_EVERY_S = 1.0

Tell = Callable[[Mapping[str, Any]], Awaitable[None]]


@attrs.frozen
class Wanted:
    """Which letters are meant."""

    who: str
    """The handler, as `<identifier>.<handler>`."""
    id: str = ""
    """This one alone."""
    matches: Sequence[Match] = ()
    """All of these."""
    since_s: float | None = None
    """Kept at or after this wall-clock second."""
    limit: int | None = None


@attrs.frozen
class Way:
    """How letters are replayed."""

    listens: Sequence[str]
    """What the handler listens to: a letter says itself where it came from, and whoever may write letters may write
    that."""
    to: str = ""
    """A subject; empty: where each came from, if the handler listens there."""
    max_replays: int = 3


@attrs.define
class Counts:
    """What became of the letters that were meant."""

    done: int = 0
    passed_over: int = 0
    """They had been replayed too often."""
    failed: int = 0
    """They can never be sent there."""
    gone: int = 0
    """Somebody else was faster."""

    def told(self) -> dict[str, int]:
        """As results and progress have them."""
        return attrs.asdict(self)


async def select(places: Sequence[Letters], wanted: Wanted) -> AsyncIterator[tuple[Letters, Letter]]:
    """The letters that are meant, without payloads (an `id` alone: with), the oldest of each place first."""
    left = wanted.limit
    for place in places:
        if wanted.id:
            kept = await place.load(wanted.id)
            if kept is not None and Letter(kept).belongs_to(wanted.who):
                yield place, Letter(kept)
                return
            continue
        async with contextlib.aclosing(place.letters(wanted.since_s)) as found:  # type: ignore[type-var]
            async for kept in found:
                letter = Letter(kept)
                if not (letter.belongs_to(wanted.who) and all(match(letter) for match in wanted.matches)):
                    continue
                if left == 0:
                    return
                left = None if left is None else left - 1
                yield place, letter


class Job:
    """One replay or purge: at most `rate` letters a second, and a word each second of how far it is."""

    def __init__(self, places: Sequence[Letters], wanted: Wanted, tell: Tell, rate: float | None, dry_run: bool):
        self._places = places
        self._wanted = wanted
        self._tell = tell
        self._pause_s = 1 / rate if rate else 0.0
        self._dry_run = dry_run
        self._due_s = self._told_s = clock.monotonic()
        self.counts = Counts()

    async def purge(self) -> None:
        """Remove them."""
        await self._each(self._purge)

    async def replay(self, way: Way, send: Callable[[Output], Awaitable[None]]) -> None:
        """Publish them again by `send`, each then removed. TimedOut when one cannot be sent now: it is still there, and
        so are those after it."""

        async def one(place: Letters, letter: Letter) -> None:
            await self._replay(place, letter, way, send)

        await self._each(one)

    async def _each(self, one: Callable[[Letters, Letter], Awaitable[None]]) -> None:
        try:
            async with contextlib.aclosing(select(self._places, self._wanted)) as found:  # type: ignore[type-var]
                async for place, letter in found:
                    await one(place, letter)
                    if clock.monotonic() - self._told_s >= TELL_EVERY_S:
                        self._told_s = clock.monotonic()
                        await self._tell(self.counts.told())
        except PublishError as error:
            raise TimedOut(f"{error}; {self.counts.done} letters are done, the others are still there") from error

    async def _purge(self, place: Letters, letter: Letter) -> None:
        if self._dry_run:
            self.counts.done += 1
            return
        await self._turn()
        if await place.remove(letter.kept.id):
            self.counts.done += 1
        else:
            self.counts.gone += 1

    async def _replay(
        self, place: Letters, letter: Letter, way: Way, send: Callable[[Output], Awaitable[None]]
    ) -> None:
        if letter.replays >= way.max_replays:
            self.counts.passed_over += 1
            await self._tell({"passed_over": letter.kept.id, "replays": letter.replays})
            return
        origin = letter.told.get("origin", "")
        if not way.to and not any(subjects.matches(one, origin) for one in way.listens):
            self.counts.failed += 1
            reason = f"it came from {origin or 'nowhere'}, where this handler does not listen; say --to SUBJECT"
            await self._tell({"failed": letter.kept.id, "reason": reason})
            return
        if self._dry_run:
            self.counts.done += 1
            return
        await self._turn()
        kept = await place.load(letter.kept.id)
        if kept is None:
            self.counts.gone += 1
            return
        try:
            await _to_its_end(_send_and_remove(place, kept, again(kept, way, self._wanted.who), send))
        except PublishError as error:
            if error.transient:
                raise
            self.counts.failed += 1
            await self._tell({"failed": kept.id, "reason": str(error)})
            return
        self.counts.done += 1

    async def _turn(self) -> None:
        """Wait until the rate allows the next one."""
        if self._pause_s:
            now = clock.monotonic()
            await asyncio.sleep(max(0.0, self._due_s - now))
            self._due_s = max(self._due_s, now - self._pause_s) + self._pause_s


async def _send_and_remove(
    place: Letters, kept: Kept, output: Output, send: Callable[[Output], Awaitable[None]]
) -> None:
    await send(output)
    await place.remove(kept.id)


async def _to_its_end(both: Coroutine[Any, Any, None]) -> None:
    """Also when this is cancelled: half of it would be a replay that is done again."""
    task = asyncio.ensure_future(both)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


def again(kept: Kept, way: Way, who: str) -> Output:
    """The message of a letter, to be published again."""
    letter = Letter(kept)
    target = way.to or letter.told.get("origin", "")
    count = letter.replays + 1
    headers = {REPLAYS: str(count)}
    if not way.to:
        headers[REPLAY_FOR] = who
    identity = hashlib.sha256(
        f"{kept.key} {kept.id} {kept.kept_s if not kept.key else ''} {target}".encode()
    ).hexdigest()
    return Output(target, kept.data, headers, None, f"replay-{identity[:32]}-{count}", kept.record_key, letter.original)
