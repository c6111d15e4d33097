"""A named query as a backend runs it: its text cut at the placeholders, once, when the proxy starts."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from atmo_farm.datasource.errors import CallFailed
from atmo_farm.directive import sql
from atmo_farm.directive.model import Query

_READS = ("select", "with", "values", "table")
_CHANGES = ("insert", "update", "delete", "merge", "into")

Variable = str | bytes
"""A variable as a driver gets it: text, or bytes that are no UTF-8."""


@attrs.frozen
class Slot:
    """A placeholder."""

    index: int
    """Which variable goes here, from 0."""
    is_count: bool
    """It stands behind LIMIT, OFFSET or FETCH, where MySQL takes a bare number only."""


@attrs.frozen
class Statement:
    """One query of one dialect."""

    name: str
    type: sql.QueryType
    dialect: sql.Dialect
    parts: tuple[str | Slot, ...]
    """Text and placeholders by turns; `??` of the question style is `?` already."""
    var_count: int
    """What its placeholders come to, whatever the Directive's varCount says."""
    only_reads: bool
    """It begins with SELECT, WITH, VALUES or TABLE and no word in it writes: it can have a LIMIT. Its outcome is not
    unknown, unless one of its functions writes."""
    has_limit: bool
    """It holds the word LIMIT or FETCH: another LIMIT cannot stand behind it, only around it."""

    def render(self, place: Callable[[Slot], str]) -> str:
        """The text, with what `place` gives in place of each placeholder."""
        return "".join([part if isinstance(part, str) else place(part) for part in self.parts])

    def positional(self, mark: str = "?") -> tuple[str, tuple[int, ...]]:
        """The text with a driver's own mark at each placeholder, and the variables' indexes in that order."""
        order: list[int] = []

        def place(slot: Slot) -> str:
            order.append(slot.index)
            return mark

        return self.render(place), tuple(order)


def prepare(query: Query, dialect: sql.Dialect) -> Statement:
    """Cut a query; ValueError, as of sql.placeholders, which a loaded Directive's queries have passed."""
    text = query.query
    found = sql.placeholders(text, dialect)
    places = {token.start for token in found.tokens}
    parts: list[str | Slot] = []
    words: list[str] = []
    begin = counted = end = 0
    counts = _Counts()
    for token in sql.tokens(text, dialect):
        piece = text[token.start : token.end]
        if piece == ";" or sql.is_passed_over(token.kind, piece, dialect):
            continue
        end = token.end
        if token.kind == "word":
            words.append(piece.lower())
        if token.start in places:
            parts.append(text[begin : token.start])
            if token.kind == "escaped":
                parts.append("?")
            else:
                parts.append(Slot(int(piece[1:]) - 1 if token.kind == "numbered" else counted, counts.next))
                counted += 1
            begin = token.end
        counts.see(token.kind, piece.lower())
    parts.append(text[begin:end])
    reads = bool(words) and words[0] in _READS
    return Statement(
        name=query.name,
        type=query.type,
        dialect=dialect,
        parts=tuple(part for part in parts if part != ""),
        var_count=found.count,
        only_reads=reads and not any(word in _CHANGES for word in words) and query.type == "select",
        has_limit="limit" in words or "fetch" in words,
    )


class _Counts:
    """Watches for LIMIT n, LIMIT n, m, OFFSET n and FETCH FIRST n: `next` is whether a number of rows must follow."""

    def __init__(self) -> None:
        self.next = False
        self._was = False
        self._word = ""

    def see(self, kind: str, piece: str) -> None:
        is_fetch = self._word == "fetch" and piece in ("first", "next")
        self.next, self._was = (
            (kind == "word" and (piece in ("limit", "offset") or is_fetch)) or (piece == "," and self._was),
            self.next and kind in ("number", "numbered", "question"),
        )
        self._word = piece if kind == "word" else ""


def variable(value: bytes) -> Variable:
    """What a guest has added, as a driver gets it."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def whole_number(value: Variable) -> str:
    """The text of a variable behind LIMIT or OFFSET; CallFailed unless it is a whole number."""
    text = value.strip() if isinstance(value, str) else ""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise CallFailed("a variable behind LIMIT or OFFSET must be a whole number")
    return text
