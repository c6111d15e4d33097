"""A query's result as JSON, the same for every SQL backend: the caps, the rows, and the forms of values.

msgspec's encoder does the work. What a driver hands over is one of these, or a list of them:

    int, bool, None, str       as they are
    float                      a number; NaN and the infinities are null
    Decimal, UUID              a string
    bytes, memoryview          base64
    datetime with UTC, date, time      RFC 3339 and ISO 8601
    msgspec.Raw (`embedded`)   the database's own JSON

A backend's casters turn everything else into the server's text. Columns keep their order. The first column of a name
keeps it, later ones become `name_2`, `name_3`, …: nothing is lost, and the JSON has no key twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed

_encode = msgspec.json.Encoder(enc_hook=str).encode

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?")

PIECE = 500
"""Rows that a backend should hand over at once: what the loop does in one go, some milliseconds."""


def unique_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names of a result's columns as keys of an object."""
    given = tuple(names)
    if len(set(given)) == len(given):
        return given  # nearly always
    taken, unique = set(given), []
    seen: set[str] = set()
    for name in given:
        key, number = name, 1
        while key in seen or (number > 1 and key in taken):
            number += 1
            key = f"{name}_{number}"
        seen.add(key)
        unique.append(key)
    return tuple(unique)


class RowWriter:
    """The JSON array of a select's rows, in pieces."""

    def __init__(self, names: Iterable[str], limits: Limits):
        self._names = unique_names(names)
        self._limits = limits
        self._pieces: list[bytes] = []
        self._rows = 0
        self._bytes = 2

    def add(self, rows: Sequence[Sequence[object]]) -> None:
        """More rows; CallFailed when they are more, or longer, than the limits."""
        if not rows:
            return
        self._rows += len(rows)
        if self._rows > self._limits.rows:
            raise too_many_rows(self._limits)
        piece = _json(self._names, rows)
        self._bytes += len(piece) - 1
        if self._bytes > self._limits.bytes + 1:
            raise too_many_bytes(self._limits)
        self._pieces.append(piece)

    def finish(self) -> bytes:
        """All of it."""
        if len(self._pieces) == 1:
            return self._pieces[0]
        return b"[" + b",".join(piece[1:-1] for piece in self._pieces) + b"]"


def small(names: tuple[str, ...], rows: Sequence[Sequence[object]], limits: Limits) -> bytes:
    """The same of a few rows, in one go; the names are unique."""
    if len(rows) > limits.rows:
        raise too_many_rows(limits)
    result = _json(names, rows)
    if len(result) > limits.bytes:
        raise too_many_bytes(limits)
    return result


def _json(names: tuple[str, ...], rows: Sequence[Sequence[object]]) -> bytes:
    try:
        return _encode([dict(zip(names, row)) for row in rows])  # noqa: B905 (a row has as many values as names)
    except UnicodeEncodeError:
        raise CallFailed("a text in the result is not Unicode") from None


def changed(last_insert_id: int, rows_affected: int) -> bytes:
    """The result of an insert, update or delete; rows_affected is -1 where a driver does not know: 0 then."""
    return b'{"lastInsertID":%d,"rowsAffected":%d}' % (last_insert_id, max(0, rows_affected))


def too_many_rows(limits: Limits) -> CallFailed:
    """The error of a select over the cap."""
    return CallFailed(f"the result has more than {limits.rows} rows: add a LIMIT to the query")


def too_many_bytes(limits: Limits) -> CallFailed:
    """The error of a select over the cap."""
    return CallFailed(f"the result is longer than {limits.bytes} bytes: select fewer rows or columns")


def embedded(text: str | bytes) -> msgspec.Raw:
    """JSON that the server has checked."""
    return msgspec.Raw(text.encode() if isinstance(text, str) else text)


def timestamp(text: str) -> str:
    """A timestamp without time zone, `2026-01-31 23:59:59.5`, as RFC 3339 with Z; any other text (infinity, years
    before 1 and over 9999) as it is."""
    return f"{text[:10]}T{text[11:]}Z" if _TIMESTAMP.fullmatch(text) else text


def timestamp_with_zone(text: str) -> str:
    """A timestamp with an offset, `2026-01-31 23:59:59.5+01`, as RFC 3339 in UTC; any other text as it is."""
    if text.endswith("+00") and _TIMESTAMP.fullmatch(text, 0, len(text) - 3):
        return f"{text[:10]}T{text[11:-3]}Z"
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return f"{moment:%Y-%m-%dT%H:%M:%S}" + (f".{moment:%f}".rstrip("0") if moment.microsecond else "") + "Z"
