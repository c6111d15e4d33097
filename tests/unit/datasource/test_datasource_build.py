"""From a Directive's connection and the settings to a backend."""

from __future__ import annotations

import asyncio

import pytest

from atmo_farm.datasource.build import database, with_settings
from atmo_farm.datasource.mysql.backend import SPARE_THREADS, MySqlBackend
from atmo_farm.directive import dsn
from atmo_farm.directive.connections import DatabaseConnection
from atmo_farm.directive.model import Directive
from atmo_farm.settings import DataSourceSettings


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
    assert with_settings(connection, DataSourceSettings(connect_timeout_s=7.0)).connect_timeout_s == seconds


@pytest.mark.parametrize(("own", "size"), [(None, 3), (2, 2)])
def test_pool_size(own: int | None, size: int) -> None:
    """The Directive's own, else the settings'. MySQL has a thread for each connection, and two more."""
    text = "u@tcp(127.0.0.1:1)/db"
    connection = DatabaseConnection("default", "mysql", text, dsn.parse("mysql", text), pool_size=own)

    async def main() -> None:
        pool = database(Directive("com.example", "v1.0.0", "v0.4.7"), connection, DataSourceSettings(pool_size=3))
        assert isinstance(pool._backend, MySqlBackend)
        assert (pool.options.size, pool._backend._threads._count) == (size, size + SPARE_THREADS)
        await pool.close()

    asyncio.run(main())
