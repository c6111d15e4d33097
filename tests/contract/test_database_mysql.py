"""MySQL's backend, on MariaDB, against the suite of SQL backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from atmo_farm.datasource.mysql import MySqlBackend
from atmo_farm.directive import dsn
from atmo_farm.directive.connections import DatabaseConnection
from tests.contract.databases import Database, DatabaseSuite, ServerSuite, Snippets, TypeCase
from tests.servers.mariadb import PASSWORD, MariaDbServer

SNIPPETS = Snippets(
    columns="id bigint AUTO_INCREMENT PRIMARY KEY, name longtext, amount int, data longblob",
    insert="INSERT INTO {table} (name, amount) VALUES (?, ?)",
    many_rows="SELECT seq AS n, repeat('x', 90) AS padding FROM seq_1_to_10000000",
    wide_row=f"SELECT repeat('x', {32 << 20}) AS wide",
    endless_select="SELECT SLEEP(90)",
    endless_insert="INSERT INTO {table} (name) SELECT SLEEP(90)",
    running="SELECT count(*) FROM information_schema.processlist"
    " WHERE info LIKE '%SLEEP(90)%' AND state = 'User sleep'",
)

TYPES = (
    TypeCase("tinyint(1)", "1", "1", "MySQL's boolean: a number"),
    TypeCase("tinyint", "-128", "-128"),
    TypeCase("smallint unsigned", "65535", "65535"),
    TypeCase("mediumint", "-8388608", "-8388608"),
    TypeCase("int", "2147483647", "2147483647"),
    TypeCase("int(8) zerofill", "42", "42"),
    TypeCase("bigint", "-9223372036854775808", "-9223372036854775808", "JavaScript reads -9223372036854776000"),
    TypeCase("bigint unsigned", "18446744073709551615", "18446744073709551615"),
    TypeCase("decimal(22,2)", "12345678901234567890.10", '"12345678901234567890.10"', "a string keeps every digit"),
    TypeCase("decimal(20,10)", "0.0000000001", '"0.0000000001"'),
    TypeCase("float", "0.1", "0.1"),
    TypeCase("double", "1e300", "1e300"),
    TypeCase("double", "-0.1", "-0.1"),
    TypeCase("bit(1)", "b'1'", "1"),
    TypeCase("bit(64)", "b'1000000000000000000000000000000000000000000000000000000000000001'", "9223372036854775809"),
    TypeCase("year", "2026", "2026"),
    TypeCase("char(5)", "'abc'", '"abc"'),
    TypeCase("varchar(10)", "'it''s \"ü\"'", '"it\'s \\"ü\\""'),
    TypeCase("varchar(10) CHARACTER SET latin1", "'ü'", '"ü"', "any character set"),
    TypeCase("text", "'a\\\\b'", '"a\\\\b"', "a string; Atmo gave base64"),
    TypeCase("longtext", "'中 😀'", '"中 😀"'),
    TypeCase("enum('sad','happy')", "'happy'", '"happy"'),
    TypeCase("set('a','b','c')", "'c,a'", '"a,c"'),
    TypeCase("binary(3)", "x'00ff27'", '"AP8n"', "base64"),
    TypeCase("varbinary(10)", "x'00ff27'", '"AP8n"'),
    TypeCase("blob", "x'00ff27'", '"AP8n"'),
    TypeCase("date", "'2026-01-31'", '"2026-01-31"'),
    TypeCase("time", "'23:59:59'", '"23:59:59"'),
    TypeCase("time(3)", "'-838:59:59.5'", '"-838:59:59.500"'),
    TypeCase("datetime", "'2026-01-31 23:59:59'", '"2026-01-31T23:59:59Z"', "as if it were UTC"),
    TypeCase("datetime(6)", "'2026-01-31 23:59:59.12'", '"2026-01-31T23:59:59.120000Z"'),
    TypeCase("timestamp", "'2026-01-31 23:59:59'", '"2026-01-31T23:59:59Z"', "UTC, unless the DSN sets a zone"),
    TypeCase("timestamp(3) NULL", "from_unixtime(0.5)", '"1970-01-01T00:00:00.500Z"'),
    TypeCase("json", "'[1,  null]'", '"[1,  null]"', "MariaDB's is a text; MySQL's is embedded as it is"),
    TypeCase("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    TypeCase("inet6", "'2001:DB8::1'", '"2001:db8::1"'),
    TypeCase("inet4", "'192.168.0.1'", '"192.168.0.1"'),
    TypeCase(
        "point", "ST_GeomFromText('POINT(1 2)')", '"AAAAAAEBAAAAAAAAAAAA8D8AAAAAAAAAQA=="', "base64, any geometry"
    ),
)


def database(text: str, server: MariaDbServer | None = None) -> Database:
    """What the suite works with."""
    connection = DatabaseConnection("default", "mysql", text, dsn.parse("mysql", text))
    return Database(connection, MySqlBackend, server, PASSWORD)


class TestMySql(DatabaseSuite):
    snippets = SNIPPETS
    types = TYPES

    @pytest.fixture
    def database(self, mariadb: MariaDbServer) -> Database:
        return database(mariadb.dsn("atmo", PASSWORD))

    @pytest.mark.fault(row="sql-injection-mysql")
    async def test_injection(self, database: Database, amount: Callable[[int, int], int]) -> None:
        """SQL injection payloads come back byte for byte."""
        await self.inject(database, amount(2_000, 100_000))


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDbServer]:
    server = MariaDbServer()
    server.start()
    yield server
    server.remove()


class TestMySqlOutages(ServerSuite):
    snippets = SNIPPETS

    @pytest.fixture
    def database(self, server: MariaDbServer) -> Iterator[Database]:
        if not server.running:
            server.start()
        yield database(server.dsn("atmo", PASSWORD), server)
        if server.running:
            server.resume()

    def wrong_connections(self, database: Database) -> Mapping[str, str]:
        server = database.server
        assert isinstance(server, MariaDbServer)
        return {
            "it does not accept the user and password (1045)": server.dsn("atmo", PASSWORD + "x"),
            "its user may not use this database (1044)": server.dsn("atmo", PASSWORD, "nope"),
            "its host has no address (2005)": "mysql://atmo:secret@nobody.invalid/atmo",
        }
