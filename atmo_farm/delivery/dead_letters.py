"""Dead letters: a message that cannot be processed, as it came, with what is known of its end in headers.

A dead letter is a message of its own: the original's payload and headers, and

    Atmo-Dead-Origin       the subject or topic that it came on
    Atmo-Dead-Id           the message's id, as log lines have it
    Atmo-Dead-Handler      whose message it was, and
    Atmo-Dead-Function     the function that failed, if it was one
    Atmo-Dead-Attempts     how often it was tried
    Atmo-Dead-Cause        timeout, datasource, outcome unknown, publish, trap, memory, error, killed its process
    Atmo-Dead-Code         the function's error code, or the code that stands for the cause
    Atmo-Dead-Text         what was said, at most 1,000 characters
    Atmo-Dead-First        when it came or was first tried, RFC 3339
    Atmo-Dead-Last         when it was given up
    Atmo-Dead-Generation   the farm's generation
    Atmo-Dead-Msg-Id       the original's Nats-Msg-Id, if it had one

The trace goes on in the original's own `traceparent`. A replayed message carries `Atmo-Replays`: how often that was
done; and `Atmo-Replay-For`: whom it is meant for.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from typing import Protocol

from atmo_farm import clock
from atmo_farm.delivery.outcome import Outcome
from atmo_farm.errors import PublishError
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams.base import Message, Output

PREFIX = "Atmo-Dead-"
REPLAYS = "Atmo-Replays"
REPLAY_FOR = wire_headers.REPLAY_FOR

MARK = ".dead"
"""How the id of a letter ends, after `<message id>.<identifier>.<handler>`."""

LONGEST_TEXT = 1000

_NOT_KEPT = (
    "atmo-dead-",
    "nats-batch-",
    "nats-expected-",
    "nats-incr",
    "nats-msg-id",
    "nats-rollup",
    "nats-schedule",
    "nats-ttl",
)
"""What beginnings of header names (lower case) would make the broker treat the letter as more than a message."""


class Keeps(Protocol):
    """A place for letters that the broker does not take."""

    async def keep(self, letter: Output) -> None:
        """Returns when it is on the disk. PublishError when there is no room."""


class DeadLetters:
    """Makes and sends those of one handler.

    `bury` is the stream's. `spool` gets what the broker can never take; with `spool_all`, of a stream that keeps
    nothing, also what it cannot take now.
    """

    def __init__(
        self,
        handler: str,
        identifier: str,
        generation: int,
        resource: str,
        bury: Callable[[Output], Awaitable[None]],
        spool: Keeps,
        spool_all: bool,
    ):
        self._handler = handler
        self._identifier = identifier
        self._generation = str(generation)
        self._resource = resource
        self._bury = bury
        self._spool = spool
        self._spool_all = spool_all

    async def put(self, message: Message, outcome: Outcome, attempts: int, first_s: float) -> None:
        """Returns when the letter is safe; PublishError if it can be nowhere now. `first_s` is wall-clock seconds."""
        letter = self.letter(message, outcome, attempts, first_s)
        try:
            await self._bury(letter)
        except PublishError as error:
            if error.transient and not self._spool_all:
                raise
            await self._spool.keep(letter)

    def letter(self, message: Message, outcome: Outcome, attempts: int, first_s: float) -> Output:
        """The letter."""
        told = {
            "Origin": message.subject,
            "Id": message.id,
            "Handler": self._handler,
            "Function": outcome.function,
            "Attempts": str(attempts),
            "Cause": outcome.cause,
            "Code": str(outcome.code),
            "Text": outcome.message[:LONGEST_TEXT],
            "First": _time(first_s),
            "Last": _time(clock.wall()),
            "Generation": self._generation,
            "Msg-Id": message.headers.get("nats-msg-id", ""),
        }
        headers = {PREFIX + name: value for name, value in told.items() if value}
        data = message.data if message.raw is None else message.raw
        identity = f"{message.id}.{self._identifier}.{self._handler}{MARK}"
        return Output(self._resource, data, headers, message, identity, message.record_key, _original(message))


def _original(message: Message) -> tuple[tuple[str, str], ...]:
    """The headers that the message came with, but those that would make more of its letter than a message."""
    came = message.raw_headers
    if isinstance(came, bytes):
        came = wire_headers.pairs(came) if came else tuple(message.headers.items())
    return tuple(pair for pair in came if not pair[0].lower().startswith(_NOT_KEPT))


def _time(wall_s: float) -> str:
    moment = datetime.datetime.fromtimestamp(wall_s, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
