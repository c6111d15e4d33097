"""Dead letters as they are read: what they say of themselves, and which of them somebody asks for."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from functools import cached_property

from atmo_farm.delivery.dead_letters import MARK, PREFIX, REPLAYS
from atmo_farm.streams.base import Kept

TEXTS = ("message", "origin", "cause", "code", "text", "function")
FIELDS = ("id", *TEXTS)
"""What `Match` looks at, by the names that people write, and that `Letter.summary` has."""


class Letter:
    """What one says."""

    def __init__(self, kept: Kept):
        self.kept = kept

    @cached_property
    def told(self) -> Mapping[str, str]:
        """What was known of its end: `origin`, `cause`, … (names as in `Atmo-Dead-…`, in lower case)."""
        start = PREFIX.lower()
        return {name.lower().removeprefix(start): value for name, value in self.kept.headers if _is_ours(name)}

    @property
    def original(self) -> tuple[tuple[str, str], ...]:
        """The original's headers, without the replay count."""
        return tuple(pair for pair in self.kept.headers if not (_is_ours(pair[0]) or pair[0].lower() in _REPLAY))

    @property
    def replays(self) -> int:
        """How often it was replayed before it died again."""
        count = next((value for name, value in self.kept.headers if name.lower() == REPLAYS.lower()), "")
        return int(count) if count.isdecimal() and len(count) < 10 else 0

    def belongs_to(self, who: str) -> bool:
        """Whether it is of the handler `<identifier>.<handler>`: several may share a subject."""
        if self.kept.key.endswith(MARK):
            return self.kept.key.endswith(f".{who}{MARK}")
        return self.told.get("handler", "") == who.rpartition(".")[2]

    def field(self, name: str) -> str:
        """One of `FIELDS`: `id` is the letter's, `message` the id of the message that died."""
        return self.kept.id if name == "id" else self.told.get("id" if name == "message" else name, "")

    def summary(self) -> dict[str, str | int]:
        """What a list says of it."""
        told = self.told
        return {
            "id": self.kept.id,
            "when": told.get("last", ""),
            "origin": told.get("origin", ""),
            "message": self.field("message"),
            "function": told.get("function", ""),
            "cause": told.get("cause", ""),
            "code": told.get("code", ""),
            "text": told.get("text", ""),
            "attempts": _number(told.get("attempts", "")),
            "replays": self.replays,
            "size": self.kept.size,
        }


_REPLAY = frozenset((REPLAYS.lower(), "atmo-replay-for"))


def _is_ours(name: str) -> bool:
    return name.lower().startswith(PREFIX.lower())


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


class Match:
    """`TEXT`: it stands somewhere in message, origin, cause, code, text or function. `FIELD=PATTERN`: that field is the
    pattern, as a shell reads it (`*`, `?`, `[…]`). Both take capitals and small letters for the same."""

    def __init__(self, text: str):
        field, equals, pattern = text.partition("=")
        self._field = field.strip().lower() if equals and field.strip().lower() in FIELDS else ""
        self._pattern = (pattern if self._field else text).strip().lower()

    def __call__(self, letter: Letter) -> bool:
        """Whether it is one of these."""
        if self._field:
            return fnmatch.fnmatchcase(letter.field(self._field).lower(), self._pattern)
        return any(self._pattern in letter.field(field).lower() for field in TEXTS)
