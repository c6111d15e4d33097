"""What the suite of SQL backends works with: a database, an open connection, a dialect's SQL, column types."""

from __future__ import annotations

import contextlib
import itertools
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import ClassVar, TypeVar

import attrs
import msgspec
import pytest

from atmo_farm import clock
from atmo_farm.datasource.base import Backend, Connection, Limits
from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.statement import Statement, prepare
from atmo_farm.directive import dsn, sql
from atmo_farm.directive.connections import DatabaseConnection
from atmo_farm.directive.model import Query
from tests.servers.process import ServerProcess

PATIENCE_S = 30.0

VALUE_CANARY = "c4nary-4111-1111-1111-1111"
"""A variable of statements that fail: no error may hold it."""

_numbers = itertools.count(1)
FailureT = TypeVar("FailureT", bound=CallFailed)


@attrs.frozen
class Snippets:
    """SQL of one dialect; `{table}` stands for a table's name."""

    columns: str
    """Of the tables that the suite makes: `id` (a primary key; given by the database when it is left out), `name` (any
    text), `amount` (a whole number), `data` (bytes); all but id may be NULL."""
    insert: str
    """One row with the variables name, amount; its result has the new id as lastInsertID."""
    many_rows: str
    """A select of 10,000,000 rows of about 100 bytes."""
    wide_row: str
    """A select of one row with one text of `{size}` bytes."""
    endless_select: str
    """A select that runs for more than a minute."""
    endless_insert: str
    """An insert into `{table}` (name) that runs for more than a minute before it is done."""
    running: str
    """A select of one value: how many other connections run a statement; where there is no such thing, a class has an
    `until_running` of its own."""
    wrong: str = "SELEKT ?"
    """What no server understands; it has one variable."""
    wrong_words: str = "syntax"
    """What the server's complaint about it holds."""
    text_of: str = "?"
    """An expression that gives a variable back as a text."""
    takes_nul: bool = True
    """Whether a text may hold a NUL character."""


@attrs.frozen
class TypeCase:
    """A column type and one value of it."""

    type: str
    """A column's type, as CREATE TABLE takes it and docs/sql-types.md names it."""
    value: str
    """An SQL expression that gives the value; it is inserted into a column of the type, then selected."""
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
        """One open connection of a backend of its own."""
        backend = self.backend(limits, **changes)  # type: ignore[arg-type]
        try:
            async with self.another(backend) as session:
                yield session
        finally:
            await backend.close()

    @contextlib.asynccontextmanager
    async def another(self, backend: Backend) -> AsyncIterator[Session]:
        """One more open connection of a backend."""
        connection = backend.connection()
        try:
            await connection.open()
            yield Session(self, backend, connection)
        finally:
            connection.close()

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

    async def json(
        self, text: str, *variables: str | bytes, type_: sql.QueryType | None = None, within_s: float = PATIENCE_S
    ) -> bytes:
        """Run a query and return its JSON."""
        statement = self.database.prepare(text, type_)
        return await self.connection.run(statement, variables, "", clock.monotonic() + within_s)

    async def rows(self, text: str, *variables: str | bytes) -> list[dict[str, object]]:
        """The rows of a select."""
        rows: list[dict[str, object]] = msgspec.json.decode(await self.json(text, *variables, type_="select"))
        return rows

    async def value(self, text: str, *variables: str | bytes) -> object:
        """The only value of a select's only row."""
        (row,) = await self.rows(text, *variables)
        (value,) = row.values()
        return value

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

    async def fill(self, table: str, snippets: Snippets, *names: str) -> None:
        """One row for each name; the amounts count from 1."""
        for amount, name in enumerate(names, 1):
            await self.change(snippets.insert.format(table=table), name, str(amount))


class Suite:
    """What the parts of the suite have in common."""

    snippets: ClassVar[Snippets]
    types: ClassVar[tuple[TypeCase, ...]]

    @pytest.fixture
    def database(self) -> Database:
        raise NotImplementedError("a backend's own class gives it")

    async def until_running(self, session: Session) -> None:
        """Return when the server runs this connection's statement."""
        async with session.database.another(session.backend) as other:
            while not await other.value(self.snippets.running):
                pass


async def fails(kind: type[FailureT], doing: Awaitable[object], *, exactly: bool = True) -> FailureT:
    """The error of what must fail as `kind` (not as one of its kinds, unless not `exactly`). It is one line, and
    neither it nor its traceback holds VALUE_CANARY."""
    with pytest.raises(kind) as caught:
        await doing
    if exactly:
        assert type(caught.value) is kind, repr(caught.value)
    harmless(caught.value, VALUE_CANARY)
    return caught.value


def harmless(error: Exception, *secrets: str) -> None:
    """An error's text, and what a log would hold of it, is one line and has no secrets."""
    text = str(error)
    assert text and "\n" not in text and len(text) <= 1200
    for where in (text, repr(error), "".join(traceback.format_exception(error))):
        for secret in filter(None, secrets):
            assert secret not in where
