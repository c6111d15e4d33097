"""From a Directive's connection and the settings to a backend."""

from __future__ import annotations

import pytest

from atmo_farm.datasource.build import with_connect_timeout
from atmo_farm.directive import dsn
from atmo_farm.directive.model import DatabaseConnection


@pytest.mark.parametrize(
    ("type_", "text", "given", "seconds"),
    [
        ("postgresql", "postgres://h/db", None, 7.0),
        ("postgresql", "postgres://h/db", 2.0, 2.0),
        ("postgresql", "postgres://h/db?connect_timeout=3", None, None),
        ("postgresql", "postgres://h/db?connect_timeout=3", 2.0, 2.0),
        ("mysql", "u@tcp(h)/db", None, 7.0),
        ("mysql", "u@tcp(h)/db?timeout=3s", None, None),
        ("sqlite", "/a.db", None, 7.0),
    ],
)
def test_connect_timeout(type_: str, text: str, given: float | None, seconds: float | None) -> None:
    """The Directive's own, else what the connection string says (the backend reads it), else the settings'."""
    target = dsn.parse(type_, text)
    connection = DatabaseConnection("default", type_, text, target, connect_timeout_s=given)  # type: ignore[arg-type]
    assert with_connect_timeout(connection, 7.0).connect_timeout_s == seconds
