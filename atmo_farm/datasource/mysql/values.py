"""From variables to SQL literals, and from columns to what `rows` writes as JSON."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from atmo_farm.datasource.rows import embedded, timestamp
from atmo_farm.datasource.statement import Slot, Statement, Variable, whole_number
from atmo_farm.directive import sql

_BINARY = 128
"""The driver's flag of columns whose character set is `binary`."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CONTROL = _words("begin start commit rollback savepoint release xa lock unlock set use")
"""What changes the connection for whoever uses it next."""

_COMMITS = _words(
    "alter analyze cache change check create drop flush grant import install load optimize purge rename repair reset "
    "revoke shutdown stop truncate uninstall"
)
"""What ends the transaction that it runs in."""

_DECIMAL, _TINY, _SHORT, _LONG, _FLOAT, _DOUBLE, _TIMESTAMP, _LONGLONG, _INT24 = 0, 1, 2, 3, 4, 5, 7, 8, 9
_DATE, _TIME, _DATETIME, _YEAR, _BIT, _JSON, _NEWDECIMAL, _GEOMETRY = 10, 11, 12, 13, 16, 245, 246, 255
_TYPES = 256


@attrs.frozen
class Template:
    """A statement as it is sent."""

    text: bytes
    """In UTF-8, `%b` at each placeholder and `%%` for a percent sign."""
    slots: tuple[Slot, ...]
    first_word: str
    """In lower case; empty where an executable comment hides it."""
    only_reads: bool
    """As Statement.only_reads; False where an executable comment hides some of its words."""
    is_control: bool
    """It would begin or end a transaction, or change the session."""
    commits: bool
    """MySQL ends a transaction before it runs this."""
    calls: tuple[str, ...]
    """In alphabetical order and lower case: words and names before an opening parenthesis. Functions are among them."""
    has_backslash: bool
    """A quoted text in it holds a backslash: what that is, and where the text ends, depends on the sql_mode."""

    def render(self, literal: Callable[[str], bytes], variables: Sequence[Variable]) -> bytes:
        """The text with literals in place of variables; `literal` is the driver's, for this connection. CallFailed when
        a variable cannot stand where it does."""
        literals = []
        for slot in self.slots:
            value = variables[slot.index]
            if slot.is_count:
                literals.append(whole_number(value).encode())
            elif isinstance(value, str):
                literals.append(literal(value))
            else:
                literals.append(b"_binary x'%b'" % value.hex().encode())
        return self.text % tuple(literals)


def template(statement: Statement) -> Template:
    """Of a statement."""
    text, _ = statement.positional()
    words: list[str] = []
    calls: set[str] = set()
    last = ""
    has_backslash = is_hidden = hides_first = False
    for token in sql.tokens(text, statement.dialect):
        piece = text[token.start : token.end]
        if token.kind == "other" and piece.startswith("("):
            calls.add(last)
        if token.kind not in ("blank", "comment"):
            last = piece.strip("`").lower() if token.kind in ("word", "identifier") else ""
        if token.kind == "comment" and piece.startswith(("/*!", "/*M!")):
            is_hidden = True
            hides_first |= not words
        elif token.kind == "word":
            words.append(piece.lower())
        elif token.kind in ("string", "identifier"):
            has_backslash |= "\\" in piece
    first = "" if hides_first or not words else words[0]
    return Template(
        text=b"".join(
            b"%b" if isinstance(part, Slot) else part.encode().replace(b"%", b"%%") for part in statement.parts
        ),
        slots=tuple(part for part in statement.parts if isinstance(part, Slot)),
        first_word=first,
        only_reads=statement.only_reads and not is_hidden,
        is_control=first in _CONTROL and words[:2] != ["set", "statement"],
        commits=first in _COMMITS or not first,
        calls=tuple(sorted(calls - {""})),
        has_backslash=has_backslash,
    )


@functools.lru_cache(maxsize=4096)
def before(comment: str) -> bytes:
    """The comment as SQL, in front of a statement."""
    return b"/* %b */ " % comment.replace("*/", "* /").encode() if comment else b""


def converters(has_own_zone: bool) -> Mapping[int, Any]:
    """What the driver makes of a column, by its type. Times are in UTC and say so, unless the DSN sets a time zone."""
    text_or_bytes = [(_BINARY, bytes), (None, str)]
    found: dict[int, Any] = dict.fromkeys(range(_TYPES), text_or_bytes)
    found |= dict.fromkeys((_TINY, _SHORT, _LONG, _LONGLONG, _INT24, _YEAR), int)
    found |= dict.fromkeys((_FLOAT, _DOUBLE), float)
    found |= dict.fromkeys((_DECIMAL, _NEWDECIMAL, _DATE, _TIME), str)
    found |= dict.fromkeys((_TIMESTAMP, _DATETIME), _local_time if has_own_zone else timestamp)
    found |= {_BIT: _bits, _JSON: embedded, _GEOMETRY: bytes}
    return found


def _bits(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _local_time(text: str) -> str:
    return timestamp(text).removesuffix("Z")
