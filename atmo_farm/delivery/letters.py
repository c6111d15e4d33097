"""Dead letters as they are read: what they say of themselves, and which of them somebody asks for."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from functools import cached_property

import attrs

from atmo_farm.delivery.dead_letters import PREFIX, REPLAYS

FIELDS = ("id", "origin", "cause", "code", "text", "function")
"""What `Match` looks at, by the names that people write."""

_ID, _MSG_ID = "id", "msg-id"


@attrs.frozen(slots=False)
class Letter:
    """One dead letter, with or without its payload."""

    id: str
    """By which people name it: its number in the stream, or the name of its file in the spool."""
    key: str
    """By which the broker knows whether it has it already (`Output.id`)."""
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    """The original's as they came, then `Atmo-Dead-…`; bytes that are no UTF-8 as lone surrogates."""
    size: int
    """Bytes of the payload."""
    kept_s: float
    """When it was kept, wall-clock seconds."""
    record_key: bytes | None = None
    data: bytes = attrs.field(default=b"", repr=False)
    """Empty unless it was loaded."""

    @cached_property
    def told(self) -> Mapping[str, str]:
        """What was known of its end: `origin`, `cause`, … (names as in `Atmo-Dead-…`, in lower case)."""
        start = PREFIX.lower()
        return {name.lower().removeprefix(start): value for name, value in self.headers if _is_ours(name)}

    @property
    def original(self) -> tuple[tuple[str, str], ...]:
        """The original's headers, without the replay count."""
        return tuple(pair for pair in self.headers if not (_is_ours(pair[0]) or pair[0].lower() in _REPLAY))

    @property
    def replays(self) -> int:
        """How often it was replayed before it died again."""
        count = next((value for name, value in self.headers if name.lower() == REPLAYS.lower()), "")
        return int(count) if count.isdecimal() and len(count) < 10 else 0

    def summary(self) -> dict[str, str | int]:
        """What a list says of it."""
        told = self.told
        return {
            "id": self.id,
            "when": told.get("last", ""),
            "origin": told.get("origin", ""),
            "message": told.get(_ID, ""),
            "function": told.get("function", ""),
            "cause": told.get("cause", ""),
            "code": told.get("code", ""),
            "text": told.get("text", ""),
            "attempts": _number(told.get("attempts", "")),
            "replays": self.replays,
            "size": self.size,
        }


_REPLAY = frozenset((REPLAYS.lower(), "atmo-replay-for"))


def _is_ours(name: str) -> bool:
    return name.lower().startswith(PREFIX.lower())


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


class Match:
    """`TEXT`: it stands somewhere in id, origin, cause, code, text or function. `FIELD=PATTERN`: that field is the
    pattern, as a shell reads it (`*`, `?`, `[…]`). Both take capitals and small letters for the same."""

    def __init__(self, text: str):
        field, equals, pattern = text.partition("=")
        self._field = field.strip().lower() if equals and field.strip().lower() in FIELDS else ""
        self._pattern = (pattern if self._field else text).strip().lower()

    def __call__(self, letter: Letter) -> bool:
        """Whether it is one of these."""
        told = letter.told
        if self._field:
            return fnmatch.fnmatchcase(told.get(self._field, "").lower(), self._pattern)
        return any(self._pattern in told.get(field, "").lower() for field in FIELDS)
