"""SQLite against the suite of SQL backends, in a file and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from atmo_farm import clock
from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed, TransientFailure
from atmo_farm.datasource.sqlite import SqliteBackend
from atmo_farm.datasource.sqlite.connection import SqliteConnection
from atmo_farm.directive import dsn
from atmo_farm.directive.connections import DatabaseConnection
from tests.contract.databases import Database, DatabaseSuite, Session, Snippets, TypeCase, fails

_ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)"

SNIPPETS = Snippets(
    columns="id INTEGER PRIMARY KEY, name TEXT, amount INTEGER, data BLOB",
    insert="INSERT INTO {table} (name, amount) VALUES (?, ?)",
    many_rows="WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 10000000)"
    f" SELECT n, '{'x' * 90}' AS padding FROM c",
    wide_row="SELECT hex(zeroblob({size} / 2)) AS wide",
    endless_select=f"{_ENDLESS} SELECT count(*) FROM c",
    endless_insert=f"INSERT INTO {{table}} (name) {_ENDLESS} SELECT 'x' FROM c WHERE n % 1000 = 0",
    running="SELECT 0",
)

TYPES = (
    TypeCase("INTEGER", "9223372036854775807", "9223372036854775807", "JavaScript reads 9223372036854776000"),
    TypeCase("INTEGER", "'12'", "12", "a column makes numbers of variables"),
    TypeCase("BIGINT", "-9223372036854775808", "-9223372036854775808"),
    TypeCase("BOOLEAN", "TRUE", "1", "SQLite has no truth values: it stores 0 and 1"),
    TypeCase("REAL", "0.1", "0.1"),
    TypeCase("REAL", "1", "1.0"),
    TypeCase("DOUBLE", "1e300", "1e300"),
    TypeCase("REAL", "9e999", "null", "and the other infinity; SQLite makes NULL of NaN itself"),
    TypeCase("NUMERIC", "1.50", "1.5", "a number: SQLite has no exact decimals; keep those as TEXT"),
    TypeCase("DECIMAL(10,2)", "'12'", "12"),
    TypeCase("TEXT", "'it''s \"ü\" \\'", '"it\'s \\"ü\\" \\\\"'),
    TypeCase("TEXT", "12", '"12"'),
    TypeCase("TEXT", "'a' || char(0) || 'b'", '"a\\u0000b"'),
    TypeCase("VARCHAR(3)", "'abcdef'", '"abcdef"', "SQLite minds no lengths"),
    TypeCase("BLOB", "X'00FF27'", '"AP8n"', "base64"),
    TypeCase("BLOB", "'text'", '"text"', "what was stored as text is text"),
    TypeCase("DATE", "'2026-01-31'", '"2026-01-31"', "dates and times are what was stored: text,"),
    TypeCase("DATETIME", "'2026-01-31 23:59:59'", '"2026-01-31 23:59:59"'),
    TypeCase("TIMESTAMP", "1769903999", "1769903999", "or numbers"),
    TypeCase("JSON", "'{\"a\": [1, null]}'", '"{\\"a\\": [1, null]}"', "text, as SQLite's own functions take it"),
    TypeCase("ANY", "1.5", "1.5"),
)


def sqlite(path: str, mode: str = "") -> Database:
    """What the suite works with."""
    text = f"file:{path}?mode={mode}" if mode else path
    connection = DatabaseConnection("default", "sqlite", text, dsn.parse("sqlite", text))
    return Database(connection, SqliteBackend)


async def until_running(session: Session) -> None:
    """Return when a thread runs this connection's statement."""
    assert isinstance(session.connection, SqliteConnection)
    async with asyncio.timeout(20):
        while session.connection._job is None or not session.connection._job.is_running:
            await asyncio.sleep(0.001)


class TestSqlite(DatabaseSuite):
    snippets = SNIPPETS
    types = TYPES

    @pytest.fixture
    def database(self, tmp_path: Path) -> Database:
        return sqlite(str(tmp_path / "app ä%#.db"))

    async def until_running(self, session: Session) -> None:
        await until_running(session)

    @pytest.mark.fault(row="sql-injection-sqlite")
    async def test_injection(self, database: Database, amount: Callable[[int, int], int]) -> None:
        """SQL injection payloads come back byte for byte."""
        await self.inject(database, amount(2_000, 100_000))


class TestSqliteInMemory(DatabaseSuite):
    snippets = SNIPPETS
    types = TYPES

    @pytest.fixture
    def database(self) -> Database:
        return sqlite(":memory:")

    async def until_running(self, session: Session) -> None:
        await until_running(session)

    async def test_commit(self, database: Database) -> None:
        """There is one connection: others wait for a transaction's end."""
        async with database.connected() as session, database.another(session.backend) as other:
            table = await session.table(self.snippets)
            await session.connection.begin()
            await session.fill(table, self.snippets, "a", "b")
            count = f"SELECT count(*) FROM {table}"
            await fails(TransientFailure, other.json(count, within_s=0.05))
            waiting = asyncio.create_task(other.value(count))
            await session.connection.commit(clock.monotonic() + 30)
            assert await waiting == 2

    async def test_as_many_bytes_as_allowed(self, database: Database) -> None:
        """As for a file; each backend has a database of its own."""

        async def result(limits: Limits) -> bytes:
            async with database.connected(limits) as session:
                table = await session.table(self.snippets)
                await session.fill(table, self.snippets, *("ä" * 100 for _ in range(1200)))
                return await session.json(f"SELECT * FROM {table}")

        length = len(await result(Limits()))
        assert len(await result(Limits(bytes=length))) == length
        error = await fails(CallFailed, result(Limits(bytes=length - 1)))
        assert f"longer than {length - 1} bytes" in str(error)
