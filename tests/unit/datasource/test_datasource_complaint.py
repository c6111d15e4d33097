"""Servers' words without values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo_farm.datasource.complaint import MAX_CHARACTERS, one_line, without_secrets, without_values
from atmo_farm.datasource.statement import Variable, prepare
from atmo_farm.directive.model import Query

STATEMENT = prepare(
    Query("q", "INSERT INTO users (mail) VALUES ($1) ON CONFLICT DO NOTHING", "insert", 1, "x"), "postgresql"
)


@pytest.mark.parametrize(
    ("message", "variables", "told"),
    [
        ('invalid input syntax for type integer: "abc"', ["abc"], 'invalid input syntax for type integer: "$1"'),
        ('invalid value: "a"b"', ['a"b'], 'invalid value: "$1"'),
        (
            "Duplicate entry 'joe@example.com' for key 'mail'",
            ["joe@example.com"],
            "Duplicate entry '$1' for key 'mail'",
        ),
        ("Duplicate entry 'joe' for key 'mail'", ["x"], "Duplicate entry '…' for key 'mail'"),
        ("value „abc“ ist kein Datum, auch «abc» nicht", ["x"], "value „…“ ist kein Datum, auch «…» nicht"),
        ('relation "users" does not exist', ["x"], 'relation "users" does not exist'),
        ('unique constraint "users_pkey"', ["x"], 'unique constraint "users_pkey"'),
        ('unique constraint "other_pkey"', ["x"], 'unique constraint "…"'),
        ("no stock for 4711 0815", ["4711 0815"], "no stock for $1"),
        ("integer out of range", ["in"], "integer out of range"),
        ('bad "1" and "12"', ["1", "12"], 'bad "$1" and "$2"'),
        ("bad long-value and long-value-2", ["long-value", "long-value-2"], "bad $1 and $2"),
        ('bad "\\xff"', [b"\xff"], 'bad "$1"'),
        ("bad\n\tLINE 1: x", ["y"], "bad LINE 1: x"),
        ("it's \"odd", ["y"], "it's \"odd"),
    ],
)
def test_without_values(message: str, variables: list[Variable], told: str) -> None:
    assert without_values(message, STATEMENT, variables, {"users_pkey"}) == told


@given(st.text(min_size=4), st.text(), st.text())
def test_no_long_value_is_left(value: str, before: str, after: str) -> None:
    """Wherever it stands."""
    value = f"\U0010ffff{value}\U0010fffe"
    told = without_values(f"{before}{value}{after}", STATEMENT, [value])
    assert " ".join(value.split()) not in told


def test_without_secrets() -> None:
    assert without_secrets("password s3cret of\n joe", ["s3cret", ""]) == "password *** of joe"


def test_one_line() -> None:
    assert one_line(" a\n\tb  c ") == "a b c"
    assert len(one_line("x" * 5000)) == MAX_CHARACTERS
