"""What an error of the server means for a call, by its SQLSTATE alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import psycopg2

from atmo_farm.datasource.complaint import without_values
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure
from atmo_farm.datasource.statement import Statement, Variable

READ_ONLY = "25006"
"""read_only_sql_transaction"""

_TRANSIENT = (
    "08",  # connection exceptions
    "40",  # transaction rollback: serialization failure, deadlock
    "53",  # insufficient resources: disk full, out of memory, too many connections
    "57",  # operator intervention: cancelled, shut down, starting up
    "58",  # system errors outside of PostgreSQL: input and output
    "55P03",  # a lock is not available
    READ_ONLY,  # a standby now
)
_FAILED = re.compile(r"(?:^| failed: )[A-Z]+: +(.*)| failed: (.*)")
_UNKNOWN = ("08007", "40003")  # transaction resolution unknown, statement completion unknown


def failure(
    error: psycopg2.Error,
    statement: Statement | None = None,
    variables: Sequence[Variable] = (),
    names: Collection[str] = (),
) -> CallFailed:
    """The error for the guest: the server's words, without DETAIL, HINT, and values. `names` may be told, too."""
    told = error.diag
    state = error.pgcode or ""
    told_names = (told.constraint_name, told.table_name, told.column_name, told.schema_name, told.datatype_name)
    known = {"UTF8", *names, *filter(None, told_names)}
    text = without_values(told.message_primary or "the server gave no reason", statement, variables, known)
    if state in _UNKNOWN:
        return OutcomeUnknown(text)
    return TransientFailure(text) if state.startswith(_TRANSIENT) else CallFailed(text)


def first_words(error: psycopg2.Error) -> str:
    """Why there is no connection, or none any more: only the first line, for the others hold hints or values.

    Server, libpq and psycopg2 write it in their own ways: `FATAL:  …`, `connection to server at "…" failed: FATAL:  …`
    (once for each way that was tried), `invalid dsn: …`.
    """
    lines = str(error).strip().splitlines() or ["the connection was lost"]
    return next((match[1] or match[2] for line in lines if (match := _FAILED.search(line))), lines[0])


def no_longer_good(error: psycopg2.Error) -> bool:
    """Whether the connection should not be used again: its server has become a standby."""
    return error.pgcode == READ_ONLY
