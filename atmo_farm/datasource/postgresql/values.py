"""From variables to SQL literals, and from columns to what `rows` writes as JSON: both by psycopg2's own machinery."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from psycopg2 import BINARY
from psycopg2.extensions import (
    BOOLEAN,
    FLOAT,
    LONGINTEGER,
    UNICODE,
    Binary,
    Column,
    QuotedString,
    connection,
    cursor,
    new_array_type,
    new_type,
)

from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.rows import embedded, timestamp, timestamp_with_zone, unique_names
from atmo_farm.datasource.statement import Variable

ArrayCaster = Callable[[str | None, cursor], object]

FIRST_USER_TYPE = 16384
"""Object ids from here on are types that users have made."""

BYTES = (17, 1001)
"""bytea and its array: the only types that are shorter in JSON than on the wire."""

ARRAYS_OF = """
SELECT a.oid, CASE e.typtype WHEN 'd' THEN e.typbasetype ELSE e.oid END
FROM pg_catalog.pg_type a JOIN pg_catalog.pg_type e ON e.oid = a.typelem
WHERE a.oid = ANY (ARRAY[{}]::oid[]) AND a.typcategory = 'A' AND a.typdelim = ','
"""
"""Which of some types are arrays, and of what."""


@attrs.frozen
class Shape:
    """The columns of a result."""

    names: tuple[str, ...]
    """As keys of an object."""
    types: tuple[int, ...]
    """Object ids."""
    has_bytes: bool
    """Some of it is shorter in JSON than on the wire."""
    has_user_types: bool


def shape(description: Sequence[Column]) -> Shape:
    """Of a cursor."""
    types = tuple([column.type_code for column in description])
    return Shape(
        names=unique_names([column.name for column in description]),
        types=types,
        has_bytes=any(type_ in BYTES for type_ in types),
        has_user_types=max(types, default=0) >= FIRST_USER_TYPE,
    )


@functools.lru_cache(maxsize=4096)
def as_comment(text: str) -> str:
    """A text as a comment in front of a statement; nothing in it can end that, or begin another."""
    return f"/* {text.replace('*/', '* /').replace('/*', '/ *')} */ " if text else ""


def literal(value: Variable, driver: connection) -> str:
    """The value as a literal for this connection, in parentheses; CallFailed when PostgreSQL has none.

    The parentheses make it what a parameter would be to the parser: after `E`, or on the line after a string, a bare
    literal would join what stands before it, and its backslashes would mean something.
    """
    if isinstance(value, str) and "\0" in value:
        raise CallFailed("a variable holds a NUL character, which PostgreSQL cannot keep as text")
    quoted: Any = QuotedString(value) if isinstance(value, str) else Binary(value)
    quoted.prepare(driver)
    return f"({quoted.getquoted().decode()})"


def _caster(name: str, convert: Callable[[str], object]) -> Any:
    def cast(text: Any, _: cursor) -> object:
        return None if text is None else convert(text)

    return new_type((), name, cast)


_CASTERS: tuple[tuple[Any, dict[int, int]], ...] = (
    (BOOLEAN, {16: 1000}),
    (BINARY, {17: 1001}),
    (LONGINTEGER, {20: 1016, 21: 1005, 23: 1007, 26: 1028}),
    (FLOAT, {700: 1021, 701: 1022}),
    (_caster("ATMO_TIMESTAMP", timestamp), {1114: 1115}),
    (_caster("ATMO_TIMESTAMPTZ", timestamp_with_zone), {1184: 1185}),
    (_caster("ATMO_JSON", embedded), {114: 199, 3802: 3807}),
    (
        UNICODE,  # the server's text: numeric, date, time, interval, uuid, inet, ranges, bits, money, xml, …
        {
            18: 1002, 19: 1003, 25: 1009, 142: 143, 600: 1017, 601: 1018, 602: 1019, 604: 1027, 628: 629, 650: 651,
            718: 719, 774: 775, 790: 791, 829: 1040, 869: 1041, 1042: 1014, 1043: 1015, 1082: 1182, 1083: 1183,
            1186: 1187, 1266: 1270, 1560: 1561, 1562: 1563, 1700: 1231, 2950: 2951, 3220: 3221, 3614: 3643, 3615: 3645,
            3904: 3905, 3906: 3907, 3908: 3909, 3910: 3911, 3912: 3913, 3926: 3927, 4072: 4073,
        },
    ),
)  # fmt: skip
"""A caster, and the types that it is for: their object ids and those of their arrays (pg_type.dat)."""

_BY_TYPE = {oid: caster for caster, oids in _CASTERS for oid in oids}
_BY_ARRAY = {
    array: new_array_type((array,), f"ATMO_ARRAY_{array}", caster)
    for caster, oids in _CASTERS
    for array in oids.values()
}


def register(driver: connection) -> None:
    """All casters, for this connection; a type that has none is its text."""
    driver.string_types.update(_BY_TYPE | _BY_ARRAY)


def array_caster(array: int, element: int) -> ArrayCaster:
    """What makes lists of a user's own array type's texts."""
    return new_array_type((array,), f"ATMO_ARRAY_{array}", _BY_TYPE.get(element, UNICODE))


def with_arrays(
    rows: Sequence[tuple[object, ...]], arrays: Mapping[int, ArrayCaster], result: cursor
) -> list[list[Any]]:
    """The rows with lists in place of the texts of arrays."""
    lists: list[list[Any]] = [list(row) for row in rows]
    for row in lists:
        for at, caster in arrays.items():
            row[at] = caster(row[at], result)
    return lists
