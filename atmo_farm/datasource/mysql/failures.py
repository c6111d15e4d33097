"""What an error of MySQL or MariaDB means for a call, by its number alone.

The server's texts quote values, so none is passed on, but for those that can name nothing but tables and columns.
"""

from __future__ import annotations

from atmo_farm.datasource.complaint import one_line
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure

TOO_LONG = -1
"""Our own number: a row of the answer is longer than the driver was told to take."""

INTERNAL = -2
"""Our own number: the driver raised something that has none."""

INTERRUPTED = 1317
SYNTAX = 1064

_LATER = {
    1020: "a row was changed by somebody else meanwhile",
    1021: "its disk is full",
    1037: "it is out of memory",
    1040: "it has as many connections as it takes",
    1041: "it is out of memory",
    1047: "it is a cluster's node that is not ready",
    1053: "it shuts down",
    1203: "its user has as many connections as it may",
    1205: "it waited too long for a lock",
    1213: "a deadlock: it chose this transaction to be rolled back",
    1226: "its user has used up what it may",
    1290: "one of its options forbids this: is it a read-only replica?",
    INTERRUPTED: "the statement was interrupted",
    1412: "a table's definition was changed meanwhile",
    1461: "it has as many prepared statements as it takes",
    1614: "a deadlock: it chose this transaction to be rolled back",
    1637: "it has as many transactions as it takes",
    1836: "it is read-only",
    1927: "somebody ended the connection",
    1969: "the statement took longer than its max_statement_time",
    3024: "the statement took longer than its max_execution_time",
    3101: "its group rolled this transaction back",
    3572: "a row is locked by somebody else",
    4031: "it ended the connection, which was idle for too long",
}
"""What another time puts right; nothing was done."""

_NEVER = {
    1022: "a unique key has this value already",
    1062: "a unique key has this value already",
    SYNTAX: "the query has a syntax error",
    1142: "its user may not do this to this table",
    1143: "its user may not do this to this column",
    1153: "the query with its variables is longer than its max_allowed_packet",
    1265: "a value does not fit its column",
    1292: "a value is not of the type that is needed",
    1365: "a division by zero",
    1366: "a value does not fit its column's type",
    1451: "other rows refer to this one",
    1452: "a foreign key refers to a row that is not there",
    1690: "a number is out of range",
    3819: "a check constraint does not hold",
    4025: "a check constraint does not hold",
}

NAMES_ONLY = frozenset((1048, 1051, 1054, 1136, 1146, 1264, 1305, 1364, 1406))
"""Errors whose text holds names of tables and columns and numbers of rows, and no value."""

_ENDS_CONNECTION = frozenset((1053, *range(1152, 1162), 1184, 1927, 4031))
"""Errors after which the server closes the connection."""

_ENDS_TRANSACTION = frozenset((1020, 1205, 1213, 1614, 1637, 3101))
"""Errors that roll the whole transaction back, always or by some setting of the server's."""

_REFUSED = {
    1044: "its user may not use this database",
    1045: "it does not accept the user and password",
    1049: "it has no database of this name",
    1129: "it blocks this machine after many failed connections",
    1130: "it accepts no connection from this machine",
    1251: "its way of logging in is not known to the driver",
    1698: "it does not accept the user and password",
    2005: "its host has no address",
    2006: "its server closed the connection",
    2012: "its server closed the connection",
    2013: "its server does not answer, or closed the connection",
    2054: "its way of logging in is not known to the driver",
    2055: "its server closed the connection",
    2059: "its way of logging in is not known to the driver",
    5010: "its way of logging in would send the password in clear; that needs TLS",
}
TLS_FAILED = 2026
NO_CONNECTION = (2002, 2003)
_NOT_PREPARABLE = 1295


class DriverFailed(Exception):
    """The driver raised an error. `text` is its own and may hold values: only this module passes on what it may.

    `sent`: whether the statement has gone out.
    """

    def __init__(self, number: int, text: str = "", sent: bool = True):
        super().__init__(number)
        self.number = number
        self.text = text
        self.sent = sent

    @property
    def is_lost(self) -> bool:
        """No answer came, and the connection is no more."""
        return self.number != TOO_LONG and not (1000 <= self.number < 2000 or 3000 <= self.number < 5000)

    @property
    def ends_connection(self) -> bool:
        """The connection cannot be used any more."""
        return self.is_lost or self.number == TOO_LONG or self.number in _ENDS_CONNECTION

    @property
    def ends_transaction(self) -> bool:
        """What was done in its transaction is undone, or may be."""
        return self.ends_connection or self.number in _ENDS_TRANSACTION


def number_of(error: Exception) -> int:
    """The number in an exception of the driver's. Its text is not looked at: it may be a null pointer (see link)."""
    number = error.args[0] if error.args else None
    return number if isinstance(number, int) and number > 0 else INTERNAL


def failure(error: DriverFailed, only_reads: bool) -> CallFailed:
    """What it means for the call whose statement it was."""
    number = error.number
    if number in _LATER:
        return TransientFailure(f"mysql: {_LATER[number]} ({number})")
    if error.is_lost:
        if not error.sent:
            return TransientFailure(f"mysql: the connection was lost before the query went out ({number})")
        text = f"mysql: the connection was lost before the answer came ({number})"
        return TransientFailure(text) if only_reads else OutcomeUnknown(text)
    if number in NAMES_ONLY and error.text:
        return CallFailed(f"mysql: {one_line(error.text)} ({number})")
    return CallFailed(f"mysql: {_NEVER[number]} ({number})" if number in _NEVER else f"mysql: error {number}")


def refusal(error: DriverFailed) -> str:
    """Why there is no connection. Of errors in NO_CONNECTION, `text` is the system's."""
    number = error.number
    if number == TLS_FAILED:
        return f"TLS failed: {one_line(error.text).removeprefix('TLS/SSL error: ')}"
    if number in NO_CONNECTION and error.text:
        return error.text
    return f"{_REFUSED.get(number) or _LATER.get(number) or 'error'} ({number})"


def complaint(error: DriverFailed) -> str:
    """What the server says against a statement without values: empty where that is no fault of the statement."""
    if error.number == _NOT_PREPARABLE:
        return ""
    return f"{one_line(error.text)} ({error.number})"
