"""Cards: what the master knows of each worker and of the farm, written into the arena for whoever shows it.

    upper half of a slot = length << 32 | CRC-32 (8 bytes, stored at once) | JSON in UTF-8 (up to 2,040 bytes)

The text is written first and its head after it. Who reads in between finds a text that does not fit its head, and reads
again: so neither needs a lock, and a reader that stands or dies costs the master nothing.
"""

from __future__ import annotations

import enum
import json
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import attrs

from atmo_farm import log
from atmo_farm.ipc.arena import SLOT_SIZE

HEAD = SLOT_SIZE // 16
"""Where the head stands among the numbers of a slot."""

_TEXT = (HEAD + 1) * 8
LIMIT = SLOT_SIZE - _TEXT
"""Bytes of the longest card."""

TEXT_LIMITS = (400, 80)
"""Characters that are kept of each text: the second when with the first the card would be too long."""

TRIES = 50
"""How often a reader looks; then the writer stands in the middle of a write, and what was there before holds."""


class Kind(enum.StrEnum):
    """What a worker is for, in the order in which workers are forked."""

    DATA_SOURCES = "data-sources"
    MONITOR = "monitor"
    CONSUMER = "consumer"


class Life(enum.StrEnum):
    """Where a worker is in its life, as the master sees it."""

    DOWN = "down"
    """It has no process: the next one is due, or backs off."""
    STARTING = "starting"
    WAITING = "waiting"
    """Up, and out of reach of what it needs."""
    READY = "ready"
    DRAINING = "draining"
    RETIRED = "retired"
    """No worker: the slot holds what workers of this name have counted that are gone."""


def _names(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(given)


@attrs.frozen
class WorkerCard:
    """One worker. Times are clock.monotonic() seconds."""

    kind: str
    """A `Kind`."""
    name: str
    """The handler's, or what its kind is called; empty: handlers that are gone, together."""
    number: int = 0
    life: str = Life.RETIRED
    """A `Life`."""
    pid: int = 0
    generation: int = 0
    since: float = 0.0
    """When its process was forked."""
    restarts: int = 0
    """How many of its processes ended without being told to."""
    waits_for: str = ""
    """What it waits for, and why."""
    failure: str = ""
    """How its last process ended, if that was never ready."""
    joining: bool = False
    """It begins beside one that serves until it is up."""
    paused: bool = False
    """Its handler takes no messages."""
    scaled_from: int = 0
    """How many workers the Directive gives its handler, where it has another number of them; else 0."""
    sources: tuple[str, ...] = attrs.field(default=(), converter=_names)
    """The proxy's, in the order of its figures (`gauges`)."""


@attrs.frozen
class FarmCard:
    """The farm as a whole. Times are clock.monotonic() seconds."""

    app: str
    """The Directive's identifier."""
    app_version: str
    generation: int
    """The one in force."""
    pid: int
    """The master's."""
    since: float
    doing: str
    """`starting`, `reloading`, `stopping`, or empty: it serves."""
    note: str
    """What should not be forgotten: a reload that was refused."""
    slots: int
    """Only slots below this one were ever used."""


CardT = TypeVar("CardT", WorkerCard, FarmCard)


def write(numbers: memoryview, card: WorkerCard | FarmCard) -> None:
    """Put a card into a slot; long texts are cut."""
    fields = attrs.asdict(card)
    for limit in TEXT_LIMITS:
        content = _encode(fields, limit)
        if len(content) <= LIMIT:
            break
    numbers.cast("B")[_TEXT : _TEXT + len(content)] = content
    numbers[HEAD] = _head(content)


class CardReader(Generic[CardT]):
    """Reads the card of one slot, again and again."""

    def __init__(self, numbers: memoryview, kind: type[CardT]):
        self._numbers = numbers
        self._bytes = numbers.cast("B")
        self._kind: Callable[..., CardT] = kind
        self._seen = 0
        self._card: CardT | None = None

    def read(self) -> CardT | None:
        """What stands there now; None if there is no card."""
        for attempt in range(TRIES):
            head = self._numbers[HEAD]
            if head == self._seen:
                return self._card
            content = bytes(self._bytes[_TEXT : _TEXT + min(head >> 32, LIMIT)])
            if head == 0 or _head(content) == head:
                self._seen, self._card = head, self._decode(content)
                return self._card
            time.sleep(0.0001 * (attempt > TRIES // 2))
        return self._card

    def _decode(self, content: bytes) -> CardT | None:
        return self._kind(**json.loads(content)) if content else None


def _encode(fields: dict[str, Any], limit: int) -> bytes:
    def cut(value: Any) -> Any:
        if type(value) is not str:
            return value
        return "".join(char if char.isprintable() else " " for char in log.redacted(value, limit))

    fields = {name: cut(value) for name, value in fields.items()}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _head(content: bytes) -> int:
    return len(content) << 32 | zlib.crc32(content)
