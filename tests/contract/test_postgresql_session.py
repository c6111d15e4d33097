"""What a PostgreSQL session keeps so that a select is one short message: its guard, its timer, its plans."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import AsyncIterator

import pytest

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed, TransientFailure
from atmo_farm.datasource.postgresql import session as kept
from atmo_farm.datasource.statement import Statement
from tests.contract import test_database_postgresql as suite
from tests.contract.kit import PATIENCE_S, VALUE_CANARY, Database, Session, fails
from tests.contract.suite_statements import StatementTests
from tests.contract.suite_values import ValueTests
from tests.contract.test_database_postgresql import SNIPPETS, TYPES, database
from tests.contract.test_postgresql_statements import writing_function
from tests.servers.postgresql import PASSWORD, PostgresServer

OFTEN = kept.READS_BEFORE + kept.USES_BEFORE + 2
"""Times after which a select has all that it can have."""


@pytest.fixture
def place(postgresql: PostgresServer) -> Database:
    return database(postgresql.url("atmo", PASSWORD))


async def run(session: Session, statement: Statement, *variables: str | bytes, within_s: float = PATIENCE_S) -> bytes:
    return await session.connection.run(statement, variables, "", clock.monotonic() + within_s)


async def often(session: Session, statement: Statement, *variables: str | bytes) -> bytes:
    """Its answer, which is the same however often it has run."""
    answers = {await run(session, statement, *variables) for _ in range(OFTEN)}
    assert len(answers) == 1
    return answers.pop()


def is_planned(session: Session, statement: Statement) -> bool:
    return session.backend.wording(statement).name in session.connection._session.plans  # type: ignore[attr-defined]


async def last_message(session: Session) -> str:
    """What the server was told last, as others see it."""
    pid = session.connection._link.pid  # type: ignore[attr-defined]
    async with session.database.another(session.backend) as other:
        return str(await other.value(f"SELECT query FROM pg_stat_activity WHERE pid = {pid}"))


class TestPlanned(StatementTests, ValueTests):
    """Selects with plans from their first use on: all the same."""

    snippets = SNIPPETS
    types = TYPES
    set_up_types = suite.TestPostgres.set_up_types
    test_the_page_of_types = None  # type: ignore[assignment]

    @pytest.fixture
    def database(self, place: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
        monkeypatch.setattr(kept, "USES_BEFORE", 0)
        monkeypatch.setattr(kept, "READS_BEFORE", 0)
        return place

    async def test_injection(self, database: Database) -> None:
        await self.inject(database, 500)


async def test_the_message(place: Database) -> None:
    """At last it is the values alone."""
    async with place.connected() as session:
        statement = place.prepare("SELECT ? || 'x' AS a")
        assert await run(session, statement, "O'Neill") == b'[{"a":"O\'Neillx"}]'
        assert "SET LOCAL transaction_read_only=on;" in await last_message(session)
        assert await often(session, statement, "O'Neill") == b'[{"a":"O\'Neillx"}]'
        assert await last_message(session) == f"EXECUTE {session.backend.wording(statement).name}(('O''Neill'))"  # type: ignore[attr-defined]


async def test_a_function_that_begins_to_write(place: Database) -> None:
    """It is noticed in a session that only reads, and under a plan, and with the session's default changed."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        for change in ("", "default_transaction_read_only"):
            await session.ddl("CREATE OR REPLACE FUNCTION turns() RETURNS int LANGUAGE sql AS 'SELECT 7'")
            statement = place.prepare("SELECT turns() AS a")
            assert await often(session, statement) == b'[{"a":7}]'
            async with place.another(session.backend) as other:
                await other.ddl(
                    "CREATE OR REPLACE FUNCTION turns() RETURNS int LANGUAGE sql AS"
                    f" 'INSERT INTO {table} (name) VALUES (''f''); SELECT 7'"
                )
            if change:
                await session.json(f"SELECT set_config('{change}', 'off', false)", type_="select")
            assert await run(session, statement) == b'[{"a":7}]'
            assert statement.name in session.backend.writing  # type: ignore[attr-defined]
            assert await session.value(f"SELECT count(*) FROM {table}") == 1
            await session.ddl(f"TRUNCATE {table}")


async def test_writes_between_selects(place: Database) -> None:
    """In a session that only reads they work as in any other, alone and in transactions."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        count = place.prepare(f"SELECT count(*) AS a FROM {table}")
        insert = SNIPPETS.insert.format(table=table)
        assert await often(session, count) == b'[{"a":0}]'
        assert await session.change(insert, "a", "1") == (1, 1)
        assert await often(session, count) == b'[{"a":1}]'
        await session.connection.begin()
        assert await run(session, count) == b'[{"a":1}]'
        assert await session.change(insert, "b", "2") == (2, 1)
        await session.connection.commit(clock.monotonic() + PATIENCE_S)
        assert await often(session, count) == b'[{"a":2}]'
        await session.connection.begin()
        await session.change(f"DELETE FROM {table}")
        await session.connection.rollback()
        assert await often(session, count) == b'[{"a":2}]'
        function = await writing_function(session, table)
        assert await often(session, place.prepare("SELECT 1 AS a")) == b'[{"a":1}]'
        assert await session.value(f"SELECT {function}()") == 7
        assert await run(session, count) == b'[{"a":3}]'


async def test_a_role_that_must_not_write(postgresql: PostgresServer) -> None:
    """A default that is the server's own stays."""
    place = database(postgresql.url("atmo", PASSWORD, query="options=-c%20default_transaction_read_only%3Don"))
    async with place.connected() as session:
        await often(session, place.prepare("SELECT 1 AS a"))
        await fails(TransientFailure, session.ddl("CREATE TABLE never (a int)"))


async def test_the_servers_own_timer(place: Database) -> None:
    """It is there for every select, never less than the call may take, and four times that at most; statements that
    turn it off do so for themselves."""
    async with place.connected() as session:
        statement = place.prepare("SELECT setting::int AS a FROM pg_settings WHERE name = 'statement_timeout'")
        for within_s in (30.0, 30.0, 9.0, 7.0, 0.5, 30.0, 30.0, 3.0, 30.0):
            for _ in range(OFTEN):
                setting_ms = int((await run(session, statement, within_s=within_s))[6:-2])
                assert within_s * 900 <= setting_ms <= within_s * 4000
            await session.ddl("SET statement_timeout = 0")
    async with database(f"{place.connection.connection_string}statement_timeout=5000").connected() as session:
        assert await often(session, statement) == b'[{"a":5000}]'


@pytest.mark.alone
async def test_stopped(place: Database) -> None:
    """At the deadline and by a cancel, in a session with a coarse timer and under a plan."""
    async with place.connected() as session:
        statement = place.prepare("SELECT pg_sleep(?::float) AS a")
        await often(session, statement, "0")
        began = clock.monotonic()
        await fails(TransientFailure, run(session, statement, "90", within_s=0.5))
        assert 0.5 <= clock.monotonic() - began <= 0.7
        running = asyncio.create_task(run(session, statement, "90"))
        while not session.connection._link.busy:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        session.connection.cancel()
        await fails(TransientFailure, running)
        assert clock.monotonic() - began <= 1.7
        assert await run(session, statement, "0") == b'[{"a":""}]'
        assert not session.connection.broken


async def test_given_up_while_it_is_planned(place: Database) -> None:
    """Then it does not run."""
    async with place.connected() as session, place.another(session.backend) as other:
        table = await session.table(SNIPPETS)
        statement = place.prepare(f"SELECT name FROM {table} WHERE id = ?")
        for _ in range(kept.USES_BEFORE):
            await run(session, statement, "1")
        await other.connection.begin()
        await other.ddl(f"LOCK TABLE {table}")
        running = asyncio.create_task(run(session, statement, "1"))
        waits = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass"
        while not await other.value(waits):
            pass
        session.connection.cancel()
        await fails(TransientFailure, running)
        await other.connection.rollback()
        assert await often(session, statement, "1") == b"[]"
        assert is_planned(session, statement)


async def test_tables_that_change(place: Database) -> None:
    """A plan goes with them; it is made anew."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        await session.fill(table, SNIPPETS, "a")
        everything = place.prepare(f"SELECT * FROM {table} WHERE amount = ?")
        before = await often(session, everything, "1")
        for change, after in (
            (f"ALTER TABLE {table} ADD COLUMN more int DEFAULT 5", before.replace(b"}", b',"more":5}')),
            (f"ALTER TABLE {table} DROP COLUMN more", before),
            (
                f"ALTER TABLE {table} ALTER amount TYPE text",
                before.replace(b":1,", b':"1",').replace(b':"1",', b":1,", 1),
            ),
            ("DEALLOCATE ALL", None),
            ("DISCARD PLANS", None),
        ):
            await session.ddl(change)
            answer = await often(session, everything, "1")
            assert after is None or answer == after
            assert is_planned(session, everything)
        await session.ddl(f"DROP TABLE {table}")
        error = await fails(CallFailed, run(session, everything, "1"))
        assert str(error) == f'relation "{table}" does not exist'


async def test_what_has_no_plan(place: Database) -> None:
    """Where a parameter may mean something else than a literal, or nothing, the literal stays."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        await session.fill(table, SNIPPETS, "a")
        for query, variables in (
            ("SELECT jsonb_build_object('a', ?) AS a", ("x",)),
            ("SELECT CAST(? AS interval minute) AS a", ("5",)),
            (f"SELECT amount + ? AS a FROM {table} GROUP BY amount + ?", ("1", "1")),
        ):
            statement = place.prepare(query, "select")
            await often(session, statement, *variables)
            assert not is_planned(session, statement)


async def test_one_variable_of_two_types(place: Database) -> None:
    """As with literals: each place has a type of its own."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        await session.fill(table, SNIPPETS, "1")
        statement = place.prepare(f"SELECT name, amount FROM {table} WHERE name = $1 AND amount = $1 AND $2 = $1")
        assert await often(session, statement, "1", "1") == b'[{"name":"1","amount":1}]'
        assert is_planned(session, statement)


async def test_values_that_do_not_fit(place: Database) -> None:
    """The complaint is the same with a plan and without, and holds no value."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        statement = place.prepare(f"SELECT name FROM {table} WHERE amount = ?")
        for value in (VALUE_CANARY, b"\xff", "99999999999"):
            without = str(await fails(CallFailed, session.rows(statement.render(lambda _: "?"), value)))
            assert await often(session, statement, "1") == b"[]"
            assert str(await fails(CallFailed, run(session, statement, value))) == without


@contextlib.asynccontextmanager
async def pooler(port: int) -> AsyncIterator[int]:
    """A port behind which the server's processes have other numbers than it says, as those of PgBouncer have."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                at = data.find(b"K\0\0\0\x0c")
                to.write(data if at < 0 else data[: at + 5] + b"\x26\x15\x26\x15" + data[at + 9 :])
            to.close()

        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_behind_a_pooler(place: Database, postgresql: PostgresServer) -> None:
    """Others go on with the session: nothing is left in it."""
    async with pooler(postgresql.port) as port:
        behind = database(postgresql.url("atmo", PASSWORD).replace(str(postgresql.port), str(port)))
        async with behind.connected() as session:
            statement = behind.prepare(
                "SELECT (SELECT count(*) FROM pg_prepared_statements) AS plans, boot_val = reset_val AND reset_val ="
                " setting AS same FROM pg_settings WHERE name = 'default_transaction_read_only'"
            )
            assert await often(session, statement) == b'[{"plans":0,"same":true}]'
            assert session.connection._link.is_shared  # type: ignore[attr-defined]


def test_a_killed_process_leaves_no_statement_behind(place: Database) -> None:
    """The server looks each second whether who asked is still there (`client_connection_check_interval`)."""
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(601)%' AND pid <> pg_backend_pid()"

    async def hold() -> None:
        async with place.connected() as session:
            await session.json("SELECT pg_sleep(601)", within_s=601)

    async def until(count: int) -> None:
        async with place.connected() as session, asyncio.timeout(PATIENCE_S):
            while await session.value(asleep) != count:
                await asyncio.sleep(0.05)

    child = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(hold()))
    child.start()
    try:
        asyncio.run(until(1))
    finally:
        child.kill()
        child.join()
    began = clock.monotonic()
    asyncio.run(until(0))
    assert clock.monotonic() - began < 3.0
