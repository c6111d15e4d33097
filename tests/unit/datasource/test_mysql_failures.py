"""What MySQL's error numbers mean."""

from __future__ import annotations

import pytest

from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure
from atmo_farm.datasource.mysql.failures import DriverFailed, failure, number_of, refusal

SECRET = "4111-1111"


@pytest.mark.parametrize(
    ("number", "sent", "read", "write"),
    [
        (1062, True, CallFailed, CallFailed),
        (1064, True, CallFailed, CallFailed),
        (9999, True, TransientFailure, OutcomeUnknown),
        (1040, True, TransientFailure, TransientFailure),
        (1203, True, TransientFailure, TransientFailure),
        (1205, True, TransientFailure, TransientFailure),
        (1213, True, TransientFailure, TransientFailure),
        (1317, True, TransientFailure, TransientFailure),
        (1927, True, TransientFailure, TransientFailure),
        (2006, True, TransientFailure, OutcomeUnknown),
        (2013, True, TransientFailure, OutcomeUnknown),
        (2013, False, TransientFailure, TransientFailure),
        (2027, True, TransientFailure, OutcomeUnknown),
        (-2, True, TransientFailure, OutcomeUnknown),
    ],
)
def test_failure(number: int, sent: bool, read: type[CallFailed], write: type[CallFailed]) -> None:
    """Transient where nothing was done, unknown where a write has no answer; never the server's words."""
    for only_reads, kind in ((True, read), (False, write)):
        error = DriverFailed(number, f"Duplicate entry '{SECRET}' for key", sent)
        got = failure(error, only_reads)
        assert type(got) is kind
        assert SECRET not in str(got) + repr(error)
        assert str(abs(number)) in str(got)


def test_names() -> None:
    """A text that can hold nothing but names is passed on."""
    assert (
        str(failure(DriverFailed(1146, "Table 'a.b'\ndoesn't exist"), True))
        == "mysql: Table 'a.b' doesn't exist (1146)"
    )
    assert str(failure(DriverFailed(1146), True)) == "mysql: error 1146"


def test_ends() -> None:
    """Which errors end a connection, and a transaction."""
    assert not DriverFailed(1062).ends_transaction
    assert DriverFailed(1213).ends_transaction
    assert not DriverFailed(1213).ends_connection
    for number in (1053, 1153, 1927, 2006, 2013, 4031, -1, -2):
        assert DriverFailed(number).ends_connection
        assert DriverFailed(number).ends_transaction
    assert not DriverFailed(3024).ends_connection


def test_numbers() -> None:
    """Of exceptions of the driver's, in all their forms."""
    assert number_of(Exception(1062, "x")) == 1062
    assert (
        number_of(Exception("This connection is already in use"))
        == number_of(Exception())
        == number_of(Exception(0, ""))
        == -2
    )


def test_refusal() -> None:
    """Why there is no connection."""
    assert (
        refusal(DriverFailed(1045, f"Access denied for user {SECRET}"))
        == "it does not accept the user and password (1045)"
    )
    assert refusal(DriverFailed(1040)) == "it has as many connections as it takes (1040)"
    assert (
        refusal(DriverFailed(2026, "TLS/SSL error: self-signed certificate")) == "TLS failed: self-signed certificate"
    )
    assert refusal(DriverFailed(2002, "connection refused")) == "connection refused"
    assert refusal(DriverFailed(1999)) == "error (1999)"
