"""Statements on a database's thread, and what they give as JSON."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from sys import getsizeof
from typing import Any

import attrs

from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.rows import PIECE, RowWriter, changed, too_many_bytes
from atmo_farm.datasource.sqlite.failures import is_too_big
from atmo_farm.datasource.sqlite.jobs import Job
from atmo_farm.datasource.statement import Statement, Variable

PIECE_BYTES = 256 << 10
"""Of rows that are made JSON in one go."""

SHORTEST_LIMIT = 1 << 20
NO_LIMIT = 1_000_000_000
"""SQLite's own limit to the length of a value."""

Value = str | bytes | int


@attrs.frozen
class Rendered:
    """A statement with its variables."""

    sql: str
    values: Sequence[Value]
    statement: Statement
    variables: Sequence[Variable]
    limits: Limits

    @property
    def is_select(self) -> bool:
        """Whether its rows are wanted."""
        return self.statement.type == "select"

    def read(self, connection: sqlite3.Connection, job: Job[bytes]) -> bytes:
        """Run what only reads."""
        with closing(connection.cursor()) as cursor, _no_value_longer(connection, self.limits):
            job.patiently(lambda: cursor.execute(self.sql, self.values))
            return _rows(cursor, self.limits)

    def write(self, connection: sqlite3.Connection, job: Job[bytes]) -> bytes:
        """Run any other in a transaction of its own. One with a result is done only if that is within the limits."""
        if self.is_select:
            result = self.write_first(connection, job)
            connection.execute("COMMIT")
            return result
        result = self._change(connection, job)
        if connection.in_transaction:
            raise CallFailed("a query cannot begin a transaction: a step does, with `transaction: true`")
        return result

    def write_first(self, connection: sqlite3.Connection, job: Job[bytes]) -> bytes:
        """Begin a transaction with it."""
        job.patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        return self.write_more(connection, job)

    def write_more(self, connection: sqlite3.Connection, job: Job[bytes]) -> bytes:
        """Run it in the transaction that is open."""
        return self.read(connection, job) if self.is_select else self._change(connection, job)

    def _change(self, connection: sqlite3.Connection, job: Job[bytes]) -> bytes:
        before = connection.total_changes
        with closing(connection.cursor()) as cursor:
            job.patiently(lambda: cursor.execute(self.sql, self.values))
            returned = cursor.fetchone() if cursor.description is not None else None
            while returned is not None and cursor.fetchmany(PIECE):
                pass
            if connection.total_changes == before:
                return changed(0, 0)
            rows, last_id = cursor.execute("SELECT changes(), last_insert_rowid()").fetchone()
        if self.statement.type != "insert":
            return changed(0, rows)
        return changed(returned[0] if returned is not None and type(returned[0]) is int else last_id, rows)


def _rows(cursor: sqlite3.Cursor, limits: Limits) -> bytes:
    """All rows; CallFailed when they are more, or longer, than the limits."""
    if cursor.description is None:
        return b"[]"
    writer = RowWriter((column[0] for column in cursor.description), limits)
    rows: list[tuple[Any, ...]] = []
    left, size = limits.rows + 1, 0
    for row in cursor:
        rows.append(row)
        size += sum(map(getsizeof, row))
        if len(rows) == min(PIECE, left) or size > PIECE_BYTES:
            left -= len(rows)
            writer.add(rows)
            rows, size = [], 0
    writer.add(rows)
    return writer.finish()


@contextmanager
def _no_value_longer(connection: sqlite3.Connection, limits: Limits) -> Iterator[None]:
    """SQLite makes no value, and no row, that is longer than the result may be."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(SHORTEST_LIMIT, limits.bytes))
    try:
        yield
    except sqlite3.DataError as error:
        raise (too_many_bytes(limits) if is_too_big(error) else error) from None
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, NO_LIMIT)
