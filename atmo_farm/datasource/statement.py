"""A named query as a backend runs it: its text cut at the placeholders, once, when the proxy starts."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from atmo_farm.datasource.errors import CallFailed
from atmo_farm.directive import sql
from atmo_farm.directive.model import Query

_WHOLE_NUMBERS = ("limit", "offset", "fetch", "first", "next")
_CHANGES = ("insert", "update", "delete", "merge", "into")

Variable = str | bytes
"""A variable as a driver gets it: text, or bytes that are no UTF-8."""


@attrs.frozen
class Slot:
    """A placeholder."""

    index: int
    """Which variable goes here, from 0."""
    is_count: bool
    """It stands behind LIMIT or OFFSET, where MySQL takes a bare number only."""


@attrs.frozen
class Statement:
    """One query of one dialect."""

    name: str
    type: sql.QueryType
    dialect: sql.Dialect
    parts: tuple[str | Slot, ...]
    """Text and placeholders by turns; `??` of the question style is `?` already."""
    var_count: int
    only_reads: bool
    """It begins with SELECT, WITH, VALUES or TABLE and no word in it writes: a cursor or a LIMIT may be put around it,
    and its outcome is never unknown."""

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
    """Cut a query; ValueError when it holds several statements (a loaded Directive's queries never do)."""
    found = sql.placeholders(query.query, dialect)
    places = {token.start: token for token in found.tokens}
    parts: list[str | Slot] = []
    words: list[str] = []
    begin = counted = end = 0
    is_over = False
    for token in sql.tokens(query.query, dialect):
        text = query.query[token.start : token.end]
        if text == ";":
            is_over = True
        if token.kind in ("blank", "comment") or text == ";":
            continue
        if is_over:
            raise ValueError("holds several statements; a query is one")
        end = token.end
        if token.kind == "word":
            words.append(text.lower())
        if token.start in places:
            parts.append(query.query[begin : token.start])
            if token.kind == "escaped":
                parts.append("?")
            else:
                index = int(text[1:]) - 1 if token.kind == "numbered" else counted
                counted += 1
                parts.append(Slot(index, bool(words) and words[-1] in _WHOLE_NUMBERS))
            begin = token.end
    parts.append(query.query[begin:end])
    reads = bool(words) and words[0] in ("select", "with", "values", "table")
    return Statement(
        name=query.name,
        type=query.type,
        dialect=dialect,
        parts=tuple(part for part in parts if part != ""),
        var_count=query.var_count,
        only_reads=reads and not any(word in _CHANGES for word in words) and query.type == "select",
    )


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
