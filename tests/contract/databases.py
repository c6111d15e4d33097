"""The conformance suite of SQL backends, and what it needs to know of each.

A backend's test module holds two classes (one, where there is no server) and two fixtures:

    class TestSqlite(DatabaseSuite):               what every backend does
        snippets = Snippets(…)                     its SQL where dialects differ
        types = (TypeCase(…), …)                   every column type's JSON; also a section of docs/sql-types.md

        @pytest.fixture
        def database(self, …) -> Database: …       a shared database; the suite's tables have names of their own

    class TestPostgresOutages(ServerSuite):        what backends with a server do when that is ended, stopped or slow
        snippets = …

        @pytest.fixture
        def database(self, …) -> Database: …       a server for this test alone, `database.server` controls it

Tests are `async def` and run on uvloop (tests/contract/conftest.py). Statements are written with `?`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from typing import ClassVar

import attrs
import msgspec
import pytest

from atmo_farm import clock
from atmo_farm.datasource.base import Backend, Connection, Limits
from atmo_farm.datasource.statement import Statement, prepare
from atmo_farm.directive import dsn, sql
from atmo_farm.directive.model import DatabaseConnection, Query
from tests.servers.process import ServerProcess

_numbers = itertools.count(1)

PATIENCE_S = 30.0


@attrs.frozen
class Snippets:
    """SQL of one dialect; `{table}` stands for a table's name."""

    columns: str
    """Of the tables that the suite makes: `id` (given by the database when it is left out), `name` (any text),
    `amount` (a whole number), `data` (bytes); all but id may be NULL."""
    insert: str
    """One row with the variables name, amount; its result has the new id as lastInsertID."""
    many_rows: str
    """A select of 10,000,000 rows of about 100 bytes."""
    wide_row: str
    """A select of one row with one text of 32 MiB."""
    endless_select: str
    """A select that runs for more than a minute."""
    endless_insert: str
    """An insert into `{table}` (name) that runs for more than a minute before it is done."""
    wrong: str = "SELEKT ?"
    """What no server understands; it has one variable."""
    wrong_words: str = "syntax"
    """What the server's complaint about it holds."""


@attrs.frozen
class TypeCase:
    """A column type and one value of it."""

    type: str
    """As docs/sql-types.md names it."""
    value: str
    """An SQL expression that gives the value; it is selected as it is."""
    json: str
    """What the guest reads."""
    note: str = ""


@attrs.frozen
class Database:
    """A database for tests: how a Directive names it, and what makes its backend."""

    connection: DatabaseConnection
    make: Callable[[DatabaseConnection, Limits], Backend]
    server: ServerProcess | None = None
    """Only where the test may end, stop and restart it."""
    canary: str = ""
    """A password or the like, part of the connection string: no error text may hold it."""

    @property
    def dialect(self) -> sql.Dialect:
        """Its SQL."""
        return self.connection.type

    def backend(self, limits: Limits | None = None, connection_string: str = "", **changes: object) -> Backend:
        """A backend; `changes` are fields of DatabaseConnection that differ from `connection`'s."""
        connection = attrs.evolve(self.connection, **changes)  # type: ignore[arg-type]
        if connection_string:
            target = dsn.parse(self.dialect, connection_string)
            connection = attrs.evolve(connection, connection_string=connection_string, target=target)
        return self.make(connection, limits or Limits())

    @contextlib.asynccontextmanager
    async def connected(self, limits: Limits | None = None, **changes: object) -> AsyncIterator[Session]:
        """One open connection."""
        backend = self.backend(limits, **changes)  # type: ignore[arg-type]
        connection = backend.connection()
        try:
            await connection.open()
            yield Session(self, backend, connection)
        finally:
            connection.close()
            await backend.close()

    def prepare(self, text: str, type_: sql.QueryType | None = None) -> Statement:
        """A query as the proxy holds it; its type is told from its first word."""
        type_ = type_ or sql.query_type(text, self.dialect)
        count = sql.placeholders(text, self.dialect).count
        return prepare(Query(f"query{next(_numbers)}", text, type_, count, "default"), self.dialect)


@attrs.frozen
class Session:
    """An open connection, and short ways to use it."""

    database: Database
    backend: Backend
    connection: Connection

    async def json(self, text: str, *variables: str | bytes, type_: sql.QueryType | None = None) -> bytes:
        """Run a query, give it PATIENCE_S, return its JSON."""
        statement = self.database.prepare(text, type_)
        return await self.connection.run(statement, variables, "", clock.monotonic() + PATIENCE_S)

    async def rows(self, text: str, *variables: str | bytes) -> list[dict[str, object]]:
        """The rows of a select."""
        rows: list[dict[str, object]] = msgspec.json.decode(await self.json(text, *variables))
        return rows

    async def change(self, text: str, *variables: str | bytes) -> tuple[int, int]:
        """(lastInsertID, rowsAffected) of an insert, update or delete."""
        result = msgspec.json.decode(await self.json(text, *variables))
        assert list(result) == ["lastInsertID", "rowsAffected"]
        return result["lastInsertID"], result["rowsAffected"]

    async def ddl(self, text: str) -> None:
        """Run a statement whose result is of no interest: CREATE, DROP."""
        await self.json(text, type_="update")

    async def table(self, snippets: Snippets) -> str:
        """A new table of the suite's columns; its name."""
        name = f"t{clock.monotonic_ns()}_{next(_numbers)}"
        await self.ddl(f"CREATE TABLE {name} ({snippets.columns})")
        return name


class DatabaseSuite:
    """What every backend does."""

    snippets: ClassVar[Snippets]
    types: ClassVar[tuple[TypeCase, ...]]

    @pytest.fixture
    def database(self) -> Database:
        raise NotImplementedError("a backend's own class gives it")

    async def test_open_ping_close(self, database: Database) -> None:
        """A connection answers until it is closed."""
        async with database.connected() as session:
            await session.connection.ping()
            assert not session.connection.broken and not session.connection.is_lost()


class ServerSuite:
    """What backends with a server do when that is ended, stopped or slow; `database.server` controls it."""

    snippets: ClassVar[Snippets]

    @pytest.fixture
    def database(self) -> Database:
        raise NotImplementedError("a backend's own class gives it")
