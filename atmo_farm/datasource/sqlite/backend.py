"""One SQLite database: its file, its threads, and whether it can be used."""

from __future__ import annotations

import sqlite3

from atmo_farm import clock
from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import TransientFailure, Unreachable
from atmo_farm.datasource.sqlite.connection import SqliteConnection
from atmo_farm.datasource.sqlite.failures import failure
from atmo_farm.datasource.sqlite.file import file_of
from atmo_farm.datasource.sqlite.jobs import Job, Stuck
from atmo_farm.datasource.sqlite.turns import Turns
from atmo_farm.datasource.sqlite.workers import Workers
from atmo_farm.datasource.statement import Statement
from atmo_farm.directive.connections import DatabaseConnection, Reference

READERS = 2

CONNECT_TIMEOUT_S = 5.0

CLOSING_S = 2.0
"""How long the threads may take to close the file."""


class SqliteBackend:
    """`base.Backend`."""

    def __init__(self, connection: DatabaseConnection, limits: Limits):
        assert not isinstance(connection.connect_timeout_s, Reference), "not resolved"
        self._connect_timeout_s = connection.connect_timeout_s or CONNECT_TIMEOUT_S
        self._file = file_of(connection)
        self._was_made = False
        name = f"sqlite {connection.name}"
        self.limits = limits
        self.turns = Turns()
        self.writer = Workers(self._file, 1, f"{name} writer", self._open_writer)
        self.readers = self.writer
        """The writer itself, where the database is in memory."""
        if not self._file.in_memory:
            self.readers = Workers(self._file, READERS, f"{name} reader", self._open_reader)
        self.is_good = False
        """Whether it could be used when it was last."""

    def connection(self) -> SqliteConnection:
        """A handle; there may be any number of them."""
        return SqliteConnection(self)

    async def ready(self) -> None:
        """Return when it can be used; Unreachable."""
        if not self.is_good:
            await self.look(self._connect_timeout_s)
            self.is_good = True

    async def look(self, within_s: float) -> None:
        """Read something of it; Unreachable."""
        try:
            await self.readers.run(Job(_look, clock.monotonic() + within_s, joins=True))
        except sqlite3.Error as error:
            raise Unreachable(str(failure(error))) from None
        except Unreachable:
            raise
        except (TransientFailure, Stuck):
            raise Unreachable("no answer in time") from None

    async def check(self, statement: Statement) -> str:
        """SQLite's complaint about a statement, by EXPLAIN; Unreachable. Of a PRAGMA it has none: those act when they
        are prepared."""
        await self.ready()
        sql = "EXPLAIN " + statement.render(lambda slot: f"?{slot.index + 1}")
        if sql[8:].lstrip()[:6].lower() == "pragma":
            return ""
        values = (None,) * statement.var_count

        def explain(connection: sqlite3.Connection, _: Job[None]) -> None:
            connection.execute(sql, values).close()

        try:
            await self.readers.run(Job(explain, clock.monotonic() + self._connect_timeout_s, joins=True))
        except sqlite3.Error as error:
            failed = failure(error, statement)
            if isinstance(failed, TransientFailure):
                raise Unreachable(str(failed)) from None
            return str(failed)
        except (TransientFailure, Stuck):
            raise Unreachable("no answer in time") from None
        return ""

    async def close(self) -> None:
        """Close the file; the last to do so moves its log into it."""
        if self.readers is not self.writer:
            await self.readers.end(CLOSING_S)
        await self.writer.end(CLOSING_S)

    # On a thread

    def _open_writer(self) -> sqlite3.Connection:
        return self._open(reads=False)

    def _open_reader(self) -> sqlite3.Connection:
        return self._open(reads=True)

    def _open(self, *, reads: bool) -> sqlite3.Connection:
        """The file is made once: one that is gone later was removed by somebody, and its data with it."""
        if not self._was_made:
            self._file.make()
            self._was_made = True
        return self._file.open(reads=reads)


def _look(connection: sqlite3.Connection, _: Job[None]) -> None:
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
