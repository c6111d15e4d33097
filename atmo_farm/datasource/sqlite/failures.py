"""What an error of SQLite means for a call, by its code."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from atmo_farm.datasource.complaint import without_values
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure, Unreachable
from atmo_farm.datasource.statement import Statement, Variable

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_TRANSIENT = {
    sqlite3.SQLITE_BUSY: "another process has locked the database",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_PROTOCOL: "another process has locked the database",
    sqlite3.SQLITE_FULL: "the disk, or the database, is full",
    sqlite3.SQLITE_NOMEM: "out of memory",
}
"""Nothing was done."""

_UNREACHABLE = {
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_CORRUPT: "the file is damaged",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_READONLY_DBMOVED: "the file is gone, or another one is in its place",
}

_PYTHONS = {
    "Could not decode": "a text in the result is not Unicode",
    "Incorrect number of bindings": "the query has parameters other than `?` or `$n`",
    "You can only execute one statement": "the query holds several statements; a query is one",
    "the query contains a null character": "the query holds a NUL character",
}
"""How errors of Python's module begin, and what they mean."""

_PRIMARY = 0xFF


def failure(
    error: sqlite3.Error,
    statement: Statement | None = None,
    variables: Sequence[Variable] = (),
    *,
    may_be_done: bool = False,
) -> CallFailed:
    """The error for the guest: SQLite's words without values. `may_be_done`: it was on its way to the disk, and a
    failure of that leaves its outcome unknown."""
    extended = code(error)
    primary = extended & _PRIMARY
    for known in (extended, primary):
        if known in _TRANSIENT:
            return TransientFailure(_TRANSIENT[known])
        if known in _UNREACHABLE:
            return Unreachable(_UNREACHABLE[known])
    if primary == sqlite3.SQLITE_IOERR:
        text = f"reading or writing the file failed ({error.sqlite_errorname})"
        return OutcomeUnknown(text) if may_be_done else Unreachable(text)
    if not extended:  # Python's own; some of those texts hold values
        return CallFailed(next((text for start, text in _PYTHONS.items() if str(error).startswith(start)), "refused"))
    return CallFailed(without_values(str(error), statement, variables))


def code(error: sqlite3.Error) -> int:
    """SQLite's extended code; 0 for errors of Python's module."""
    return getattr(error, "sqlite_errorcode", None) or 0


def is_busy(error: sqlite3.Error) -> bool:
    """Whether a lock was in the way, so that the same thing may work a little later."""
    return code(error) & _PRIMARY in _BUSY


def is_interrupt(error: sqlite3.Error) -> bool:
    """Whether it was stopped; nothing of it was done."""
    return code(error) & _PRIMARY == sqlite3.SQLITE_INTERRUPT


def is_too_big(error: sqlite3.Error) -> bool:
    """Whether a text, a blob or a row was longer than the connection's limit."""
    return code(error) & _PRIMARY == sqlite3.SQLITE_TOOBIG


def needs_reopening(error: sqlite3.Error) -> bool:
    """Whether the connection should not be used again."""
    extended = code(error)
    return extended in _UNREACHABLE or extended & _PRIMARY in (*_UNREACHABLE, sqlite3.SQLITE_IOERR)
