"""`dlq.list`, `dlq.show`, `dlq.replay`, `dlq.purge`: the dead letters of one handler, on its broker and in the spool.

The keys of their requests are those of `Asked`.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol

import attrs
import msgspec

from atmo_farm.delivery.letters import Letter, Match
from atmo_farm.delivery.replay import Job, Wanted, Way, select
from atmo_farm.delivery.spool import Spool
from atmo_farm.directive.find import handler_named
from atmo_farm.directive.model import Directive, Handler
from atmo_farm.errors import NotFound, PublishError, TimedOut, with_exit_code
from atmo_farm.monitor.farm import Farm, Progress
from atmo_farm.streams.base import Letters, Output
from atmo_farm.streams.nats_letters import NatsLetters

USAGE = 2

LIST_LIMIT = 100
"""Letters that `dlq.list` tells of when nobody says how many."""

CHUNK = 192 << 10
"""Bytes of a payload in one progress."""

Number = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class Asked(msgspec.Struct):
    """A request."""

    handler: str
    letter: str = ""
    """The id of one."""
    match: list[Annotated[str, msgspec.Meta(pattern=r"\S")]] = []
    since: Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)] | None = None
    """Wall-clock seconds."""
    limit: Number | None = None
    rate: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Letters a second."""
    dry_run: bool = False
    to: str = ""
    max_replays: Number = 3
    payload: Number | None = None
    """Bytes of it; None: all."""


class Broker(Letters, Protocol):
    """A handler's broker as the place of its letters, and where they are sent again."""

    problem: str

    def problem_of(self, target: str) -> str:
        """Why nothing can be sent there; empty if it can."""

    def is_alone(self, who: str) -> bool:
        """Whether no other handler's letters than those of `<identifier>.<handler>` are there."""

    async def purge(self) -> int:
        """Remove all at once, whoever's they are; returns how many these were."""

    async def send(self, output: Output) -> None:
        """Returns when it is safe there. PublishError, transient where it may be taken later."""


async def list_(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """A progress `{"letter": {…}}` for each letter. The result: how many these were, and whether there are more."""
    asked = _asked(args)
    limit = LIST_LIMIT if asked.limit is None else asked.limit
    told, more = 0, False
    async with _opened(farm, asked, progress) as (places, who, _):
        wanted = attrs.evolve(_wanted(asked, who), limit=limit + 1)
        async with contextlib.aclosing(select(places, wanted)) as found:  # type: ignore[type-var]
            async for _, letter in found:
                if told == limit:
                    more = True
                    break
                told += 1
                await progress({"letter": letter.summary()})
    return {"letters": told, "more": more}


async def show(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """The payload in progresses `{"payload": base64}`; the result is the letter: what `dlq.list` tells, `headers` (the
    original's, pairs) and `told` (what is known of its end)."""
    asked = _asked(args)
    async with _opened(farm, asked, progress) as (places, who, _):
        letter = await _one(places, who, asked)
    data = letter.kept.data[: asked.payload]
    for start in range(0, len(data), CHUNK):
        await progress({"payload": base64.b64encode(data[start : start + CHUNK]).decode()})
    return {**letter.summary(), "headers": [list(pair) for pair in letter.original], "told": dict(letter.told)}


async def replay(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Publish letters again. Progress: how far it is, and which letters are passed over; the result is the counts."""
    asked = _asked(args)
    async with _opened(farm, asked, progress) as (places, who, broker):
        if asked.to and (problem := broker.problem_of(asked.to)):
            raise with_exit_code(f"to: {problem}", USAGE)
        if asked.letter:
            await _one(places, who, asked)
        job = Job(places, _wanted(asked, who), progress, asked.rate, asked.dry_run)
        with _alone(asked):
            await job.replay(Way(_listens(farm, asked), asked.to, asked.max_replays), broker.send)
    return job.counts.told()


async def purge(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """Remove letters. Progress: how far it is; the result is the counts."""
    asked = _asked(args)
    async with _opened(farm, asked, progress) as (places, who, broker):
        if asked.letter:
            await _one(places, who, asked)
        job = Job(places, _wanted(asked, who), progress, asked.rate, asked.dry_run)
        with _alone(asked):
            if asked == Asked(asked.handler) and broker.is_alone(who):
                job.counts.done += await broker.purge()  # no other handler's letters are there
            await job.purge()
    return job.counts.told()


def _listens(farm: Farm, asked: Asked) -> Sequence[str]:
    """The subjects of the handler."""
    handler = next(handler for handler in farm.directive().handlers if handler.name == asked.handler)
    return (handler.jetstream and handler.jetstream.filter_subjects) or (handler.resource,)


def _asked(args: Mapping[str, Any]) -> Asked:
    try:
        return msgspec.convert(args, Asked)
    except msgspec.ValidationError as error:
        raise with_exit_code(f"this request is not understood: {error}", USAGE) from error


_at_work: set[str] = set()
"""Handlers of which letters are being replayed or purged."""


@contextlib.contextmanager
def _alone(asked: Asked) -> Iterator[None]:
    """Two at once would send letters twice."""
    if asked.dry_run:
        yield
        return
    if asked.handler in _at_work:
        raise TimedOut(f"letters of {asked.handler} are being replayed or purged already; try again")
    _at_work.add(asked.handler)
    try:
        yield
    finally:
        _at_work.discard(asked.handler)


def _wanted(asked: Asked, who: str) -> Wanted:
    return Wanted(who, asked.letter, tuple(map(Match, asked.match)), asked.since, asked.limit)


async def _one(places: Sequence[Letters], who: str, asked: Asked) -> Letter:
    """The letter that is asked for by its id."""
    if asked.letter:
        async with contextlib.aclosing(select(places, Wanted(who, asked.letter))) as found:  # type: ignore[type-var]
            async for _, letter in found:
                return letter
    raise NotFound(f"{asked.handler} has no dead letter {asked.letter[:100]!r}")


@contextlib.asynccontextmanager
async def _opened(farm: Farm, asked: Asked, progress: Progress) -> AsyncIterator[tuple[Sequence[Letters], str, Broker]]:
    """Where the handler's letters are, whose they are (`<identifier>.<handler>`), and the broker.

    NotFound: no such handler, or it keeps none; TimedOut: no broker.
    """
    directive = farm.directive()
    name = asked.handler
    handler = handler_named(directive, name)
    if handler.dead_letter is None:
        raise NotFound(f"the handler {name} keeps no dead letters (`deadLetter: off`)")
    who = f"{directive.identifier}.{name}"
    client_name = f"atmo-farm/{directive.identifier}/{name}/dlq"
    try:
        async with _broker(directive, handler, handler.dead_letter.resource, client_name) as broker:
            if broker.problem:
                await progress({"note": f"what the broker may keep cannot be read: {broker.problem}"})
            await progress({"stage": "reading"})  # it may be long before there is anything to tell
            yield (broker, Spool(farm.state, name, farm.settings.spool_size)), who, broker
    except PublishError as error:
        raise TimedOut(str(error)) from error


def _broker(
    directive: Directive, handler: Handler, resource: str, client_name: str
) -> contextlib.AbstractAsyncContextManager[Broker]:
    if handler.source == "kafka":
        from atmo_farm.streams.kafka.letters import KafkaLetters

        return KafkaLetters(directive.connections.kafka[handler.connection], resource, client_name)
    return NatsLetters(directive.connections.nats[handler.connection], resource, client_name)
