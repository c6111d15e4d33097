"""The conformance suite of SQL backends, and what it needs to know of each.

A backend's test module holds one or two classes:

    class TestSqlite(DatabaseSuite):               what every backend does
        snippets = Snippets(…)                     its SQL where dialects differ
        types = (TypeCase(…), …)                   column types and their JSON; also a section of docs/sql-types.md

        @pytest.fixture
        def database(self, …) -> Database: …       a shared database; the suite's tables have names of their own

        @pytest.mark.fault(row="sql-injection-sqlite")
        async def test_injection(self, database, amount): await self.inject(database, amount(2_000, 100_000))

    class TestPostgresOutages(ServerSuite):        what backends with a server do when that is ended, stopped or slow
        snippets = …
        def wrong_connections(self, …)

        @pytest.fixture
        def database(self, …) -> Database: …       a server that the test may end, stop and restart: `database.server`

Tests are `async def` and run on uvloop (tests/contract/conftest.py). Statements are written with `?`.
"""

from __future__ import annotations

from tests.contract.kit import Database, Session, Snippets, TypeCase, fails
from tests.contract.suite_limits import LimitTests
from tests.contract.suite_outages import OutageTests
from tests.contract.suite_statements import StatementTests
from tests.contract.suite_transactions import TransactionTests
from tests.contract.suite_values import ValueTests

__all__ = ["Database", "DatabaseSuite", "ServerSuite", "Session", "Snippets", "TypeCase", "fails"]


class DatabaseSuite(StatementTests, TransactionTests, ValueTests, LimitTests):
    """What every backend does."""


class ServerSuite(OutageTests):
    """What backends with a server do when that is ended, stopped or slow."""
