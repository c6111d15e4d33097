"""PostgreSQL against the suite of SQL backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from atmo_farm.datasource.postgresql import PostgresBackend
from atmo_farm.directive import dsn
from atmo_farm.directive.connections import DatabaseConnection
from tests.contract.databases import Database, DatabaseSuite, ServerSuite, Session, Snippets, TypeCase
from tests.servers.postgresql import PASSWORD, PostgresServer

SNIPPETS = Snippets(
    columns="id bigserial PRIMARY KEY, name text, amount int, data bytea",
    insert="INSERT INTO {table} (name, amount) VALUES (?, ?) RETURNING id",
    many_rows="SELECT generate_series(1, 10000000) AS n, repeat('x', 90) AS padding",
    wide_row="SELECT repeat('x', {size}) AS wide",
    endless_select="SELECT pg_sleep(90)",
    endless_insert="INSERT INTO {table} (name) SELECT 'x' FROM pg_sleep(90)",
    running="SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(90)%'"
    " AND pid <> pg_backend_pid()",
    text_of="?::text",
    takes_nul=False,
)

TYPES = (
    TypeCase("boolean", "true", "true"),
    TypeCase("smallint", "-32768", "-32768"),
    TypeCase("integer", "2147483647", "2147483647"),
    TypeCase("bigint", "9223372036854775807", "9223372036854775807", "JavaScript reads 9223372036854776000"),
    TypeCase("oid", "4294967295", "4294967295"),
    TypeCase("numeric", "12345678901234567890.10", '"12345678901234567890.10"', "a string keeps every digit"),
    TypeCase("numeric(20,10)", "0.0000000001", '"0.0000000001"'),
    TypeCase("numeric", "'NaN'", '"NaN"'),
    TypeCase("real", "0.1", "0.1"),
    TypeCase("double precision", "1e300", "1e300"),
    TypeCase("double precision", "'NaN'", "null", "and both infinities"),
    TypeCase("double precision", "'-Infinity'", "null"),
    TypeCase("money", "12.34", '"$12.34"'),
    TypeCase("text", "'it''s \"ü\" \\'", '"it\'s \\"ü\\" \\\\"'),
    TypeCase("varchar(10)", "'abc'", '"abc"'),
    TypeCase("char(5)", "'abc'", '"abc  "'),
    TypeCase('"char"', "'a'", '"a"'),
    TypeCase("name", "'abc'", '"abc"'),
    TypeCase("mood", "'happy'", '"happy"', "an enum"),
    TypeCase("percent", "50", "50", "a domain over integer: as its base type"),
    TypeCase("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    TypeCase("bytea", "'\\x00ff27'", '"AP8n"', "base64"),
    TypeCase("date", "'2026-01-31'", '"2026-01-31"'),
    TypeCase("date", "'infinity'", '"infinity"'),
    TypeCase("date", "'0044-03-15 BC'", '"0044-03-15 BC"'),
    TypeCase("time", "'23:59:59.5'", '"23:59:59.5"'),
    TypeCase("timetz", "'23:59:59+02'", '"23:59:59+02"'),
    TypeCase("timestamp", "'2026-01-31 23:59:59.120'", '"2026-01-31T23:59:59.12Z"', "as if it were UTC"),
    TypeCase("timestamp", "'-infinity'", '"-infinity"'),
    TypeCase("timestamptz", "'2026-01-31 23:59:59.25+01'", '"2026-01-31T22:59:59.25Z"', "UTC, in any session's zone"),
    TypeCase("timestamptz", "'1800-01-01 00:00:00+00'", '"1800-01-01T00:00:00Z"'),
    TypeCase(
        "timestamptz", "'20000-01-01 00:00:00 America/New_York'", '"20000-01-01 00:00:00-05"', "the server's text"
    ),
    TypeCase("timestamptz", "'infinity'", '"infinity"'),
    TypeCase("interval", "'1 year 2 days 03:04:05'", '"1 year 2 days 03:04:05"'),
    TypeCase("json", '\'{"b": [1, null],  "a": "ü"}\'', '{"b": [1, null],  "a": "ü"}', "embedded as it is"),
    TypeCase("jsonb", "'[{\"a\": 1e2}]'", '[{"a": 100}]'),
    TypeCase("xml", "'<a>1</a>'", '"<a>1</a>"'),
    TypeCase("inet", "'192.168.0.1/24'", '"192.168.0.1/24"'),
    TypeCase("cidr", "'10.0.0.0/8'", '"10.0.0.0/8"'),
    TypeCase("macaddr", "'08:00:2b:01:02:03'", '"08:00:2b:01:02:03"'),
    TypeCase("bit(3)", "B'101'", '"101"'),
    TypeCase("tsvector", "'a b'", "\"'a' 'b'\""),
    TypeCase("point", "'(1,2)'", '"(1,2)"'),
    TypeCase("int4range", "'[1,5)'", '"[1,5)"'),
    TypeCase("pair", "(1, 'x')", '"(1,x)"', "a composite type"),
    TypeCase("integer[]", "'{1,NULL,3}'", "[1,null,3]"),
    TypeCase("integer[][]", "'{{1,2},{3,4}}'", "[[1,2],[3,4]]"),
    TypeCase("integer[]", "'[5:6]={1,2}'", "[1,2]"),
    TypeCase("text[]", "ARRAY['a,b', '\"', '\\', 'NULL', '', '{}', NULL]", '["a,b","\\"","\\\\","NULL","","{}",null]'),
    TypeCase("numeric[]", "'{1.10}'", '["1.10"]'),
    TypeCase("boolean[]", "'{t,f}'", "[true,false]"),
    TypeCase("double precision[]", "'{1.5,NaN}'", "[1.5,null]"),
    TypeCase("bytea[]", "ARRAY['\\x00ff'::bytea]", '["AP8="]'),
    TypeCase("timestamptz[]", "'{2026-01-31 12:00:00+00}'", '["2026-01-31T12:00:00Z"]'),
    TypeCase("date[]", "'{2026-01-31}'", '["2026-01-31"]'),
    TypeCase("uuid[]", "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", '["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]'),
    TypeCase("jsonb[]", "ARRAY['{\"a\": 1}'::jsonb]", '[{"a": 1}]'),
    TypeCase("mood[]", "'{happy,sad}'", '["happy","sad"]', "also arrays of users' own types"),
    TypeCase("percent[]", "'{50}'", "[50]"),
    TypeCase("pair[]", "ARRAY[(1, 'x')::pair]", '["(1,x)"]'),
    TypeCase("box[]", "'{(1,1),(0,0)}'", '"{(1,1),(0,0)}"', "the server's text: its separator is `;`"),
)


def database(url: str, server: PostgresServer | None = None) -> Database:
    """What the suite works with."""
    connection = DatabaseConnection("default", "postgresql", url, dsn.parse("postgresql", url))
    return Database(connection, PostgresBackend, server, PASSWORD)


@pytest.fixture(scope="module")
def unsteady_server() -> Iterator[PostgresServer]:
    """A server that tests end, stop and restart."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


class TestPostgres(DatabaseSuite):
    snippets = SNIPPETS
    types = TYPES

    @pytest.fixture
    def database(self, postgresql: PostgresServer) -> Database:
        return database(postgresql.url("atmo", PASSWORD))

    async def set_up_types(self, session: Session) -> None:
        await session.ddl("DROP TYPE IF EXISTS mood, percent, pair CASCADE")
        await session.ddl("CREATE TYPE mood AS ENUM ('sad', 'happy')")
        await session.ddl("CREATE DOMAIN percent AS int CHECK (VALUE <= 100)")
        await session.ddl("CREATE TYPE pair AS (a int, b text)")

    @pytest.mark.fault(row="sql-injection-postgresql")
    async def test_injection(self, database: Database, amount: Callable[[int, int], int]) -> None:
        """SQL injection payloads come back byte for byte."""
        await self.inject(database, amount(2_000, 100_000))


class TestPostgresOutages(ServerSuite):
    snippets = SNIPPETS

    @pytest.fixture
    def database(self, unsteady_server: PostgresServer) -> Iterator[Database]:
        if not unsteady_server.running:
            unsteady_server.start()
        yield database(unsteady_server.url("atmo", PASSWORD), unsteady_server)
        unsteady_server.resume()

    def wrong_connections(self, database: Database) -> Mapping[str, str]:
        server = database.server
        assert isinstance(server, PostgresServer)
        return {
            "password authentication failed": server.url("atmo", PASSWORD + "x"),
            'database "nope" does not exist': server.url("atmo", PASSWORD, "nope"),
            "nobody.invalid:5432: Name or service not known": server.url("atmo", PASSWORD).replace(
                f"127.0.0.1:{server.port}", "nobody.invalid"
            ),
            "nobody.invalid:1: Name or service not known; 127.0.0.1:2: Connection refused": server.url(
                "atmo", PASSWORD
            ).replace(f"127.0.0.1:{server.port}", "nobody.invalid:1,127.0.0.1:2"),
            "server does not support SSL, but SSL was required": server.url("atmo", PASSWORD, query="sslmode=require"),
            'invalid integer value "x" for connection option "keepalives_idle"': server.url(
                "atmo", PASSWORD, query="keepalives_idle=x"
            ),
            'unrecognized configuration parameter "no_such_setting"': server.url(
                "atmo", PASSWORD, query="no_such_setting=x"
            ),
        }
