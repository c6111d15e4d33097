"""What is PostgreSQL's own about statements: functions that write, RETURNING, literals, long answers."""

from __future__ import annotations

import asyncio

import pytest

from atmo_farm import clock
from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure
from tests.contract.kit import PATIENCE_S, VALUE_CANARY, Database, Session, fails
from tests.contract.test_database_postgresql import SNIPPETS, database
from tests.servers.postgresql import PASSWORD, PostgresServer


@pytest.fixture
def place(postgresql: PostgresServer) -> Database:
    return database(postgresql.url("atmo", PASSWORD))


async def writing_function(session: Session, table: str, seconds: float = 0) -> str:
    """A function that inserts a row and then takes its time; its name."""
    await session.ddl(
        f"CREATE FUNCTION f_{table}() RETURNS int LANGUAGE plpgsql AS $$ BEGIN"
        f" INSERT INTO {table} (name) VALUES ('f'); PERFORM pg_sleep({seconds}); RETURN 7; END $$"
    )
    return f"f_{table}"


async def test_a_select_that_writes(place: Database) -> None:
    """It does so once, whatever its words say; also in a transaction."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        function = await writing_function(session, table)
        statement = place.prepare(f"SELECT {function}() AS a")
        assert statement.only_reads
        for count in (1, 2, 3):
            assert await session.connection.run(statement, (), "", clock.monotonic() + PATIENCE_S) == b'[{"a":7}]'
            assert await session.value(f"SELECT count(*) FROM {table}") == count
        await session.connection.begin()
        assert await session.value(f"SELECT {function}()") == 7
        assert (await session.change(f"DELETE FROM {table}"))[1] == 4
        await session.connection.commit(clock.monotonic() + PATIENCE_S)


async def test_a_select_that_writes_and_is_lost(place: Database) -> None:
    """Nobody knows its outcome, as of any other write."""
    async with place.connected() as session, place.another(session.backend) as other:
        table = await session.table(SNIPPETS)
        function = await writing_function(session, table, seconds=90)
        pid = await session.value("SELECT pg_backend_pid()")
        running = asyncio.create_task(session.rows(f"SELECT {function}()"))
        asked = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"
        while not await other.value(asked):
            pass
        await other.value(f"SELECT pg_terminate_backend({pid})")
        await fails(OutcomeUnknown, running)


async def test_what_a_select_may_not_write(place: Database) -> None:
    """FOR UPDATE, sequences and temporary tables work, outside of a transaction, too."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        await session.fill(table, SNIPPETS, "a")
        assert await session.rows(f"SELECT name FROM {table} FOR UPDATE") == [{"name": "a"}]
        await session.ddl(f"CREATE SEQUENCE s_{table}")
        assert [await session.value(f"SELECT nextval('s_{table}')") for _ in range(2)] == [1, 2]
        assert await session.value("VALUES (1)") == 1
        assert await session.rows("(SELECT 1 AS a) UNION ALL (SELECT 2) ORDER BY 1") == [{"a": 1}, {"a": 2}]
        assert await session.rows(f"TABLE {table}") != []
        assert len(await session.rows(f"SELECT 1 FROM {table} FOR SHARE")) == 1
        assert len(await session.rows(f"WITH x AS (SELECT * FROM {table} LIMIT 5) SELECT * FROM x ORDER BY 1")) == 1
        assert await session.value("SHOW search_path") == '"$user", public'
        await session.ddl("CREATE TEMPORARY TABLE mine (a int)")
        assert await session.json("SELECT * FROM mine") == b"[]"


async def test_returning(place: Database) -> None:
    """lastInsertID is the first column of the first row, where that is a whole number; a select gives the rows."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        insert = f"INSERT INTO {table} (name) VALUES (?), (?)"
        assert await session.change(insert, "a", "b") == (0, 2)
        assert await session.change(f"{insert} RETURNING id, name", "a", "b") == (3, 2)
        assert await session.change(f"{insert} RETURNING name", "a", "b") == (0, 2)
        assert await session.change(f"{insert} RETURNING id = 1", "a", "b") == (0, 2)
        assert await session.change(f"DELETE FROM {table} WHERE id = ? RETURNING id", "99") == (0, 0)
        query = f"DELETE FROM {table} WHERE id = ? RETURNING id, name"
        assert await session.rows(query, "3") == [{"id": 3, "name": "a"}]
        with_ = f"WITH gone AS (DELETE FROM {table} WHERE id = ? RETURNING name) SELECT name FROM gone"
        assert await session.rows(with_, "4") == [{"name": "b"}]
        assert await session.json(f"UPDATE {table} SET name = 'x'", type_="select") == b"[]"
        assert await session.change(f"INSERT INTO {table} (name) SELECT ?", "z") == (0, 1)


async def test_question_marks(place: Database) -> None:
    """`??` is a literal `?` beside variables; beside `$n` every `?` is PostgreSQL's own."""
    async with place.connected() as session:
        assert await session.value("SELECT '{\"a\": 1}'::jsonb ?? ?", "a") is True
        assert await session.value("SELECT '{\"a\": 1}'::jsonb ? $1", "b") is False
        assert await session.value("SELECT ?::jsonb -> 'a'", '{"a": [1, "?"]}') == [1, "?"]


@pytest.mark.parametrize(
    "query",
    [
        "E?",
        "e?",
        "U&?",
        "B?",
        "X?",
        "N?",
        "E'a'\n?",
        "E'a'?",
        "'a'?",
        "'a'\n?",
        "E'a' -- x\n ?",
        "U&'a'\n?",
        "$x$a$x$?",
    ],
)
async def test_a_literal_stays_alone(place: Database, query: str) -> None:
    """What stands before a placeholder cannot join it, so that a backslash or quote in it would mean something."""
    async with place.connected() as session:
        for value in ("\\", "\\'||(SELECT 'injected')||E'", "41", "'||'injected"):
            error = await fails(CallFailed, session.rows(f"SELECT {query} AS a", value))
            assert "injected" not in str(error)


async def test_values_in_every_place(place: Database) -> None:
    """The parentheses around a value are in nobody's way."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        await session.change(f"INSERT INTO {table} (name, amount, data) VALUES (?, ?, ?), (?, NULL, ?)", *"a1bcd")
        where = "WHERE name IN (?, ?) AND amount BETWEEN ? AND ?"
        assert await session.value(f"SELECT count(*) FROM {table} {where}", *"ac02") == 1
        assert await session.value(f"SELECT name FROM {table} ORDER BY id FETCH FIRST ? ROWS ONLY", "1") == "a"
        assert await session.value("SELECT ? LIKE ? ESCAPE ?", "a%", "a!%", "!") is True
        assert await session.value("SELECT ?::int + 1", "-5") == -4
        assert await session.value("SELECT CAST(? AS date) - ?::interval = '2026-01-30'", "2026-01-31", "1 day") is True
        assert await session.value("SELECT ? = ANY (?)", "b", "{a,b}") is True
        assert await session.value("SELECT ARRAY[?, ?]", "a", "'") == ["a", "'"]
        assert await session.value("SELECT now() AT TIME ZONE ? IS NOT NULL", "UTC") is True
        assert await session.value("SELECT encode(?, 'hex')", b"\xff\x00") == "ff00"
        nul = await fails(CallFailed, session.value("SELECT ?::text", f"{VALUE_CANARY}\0"))
        assert "NUL" in str(nul)


async def test_the_loop_runs_on(place: Database) -> None:
    """Slow statements, notices in the middle of one, long answers and long variables never hold it."""
    worst_s = 0.0

    async def beat() -> None:
        nonlocal worst_s
        last = clock.monotonic()
        while True:
            await asyncio.sleep(0.002)
            now = clock.monotonic()
            worst_s, last = max(worst_s, now - last), now

    async with place.connected() as session:
        await session.ddl(
            "CREATE OR REPLACE FUNCTION noisy() RETURNS int LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE NOTICE 'x'; PERFORM pg_sleep(0.5); RAISE WARNING 'y'; RETURN 1; END $$"
        )
        beating = asyncio.create_task(beat())
        assert await session.value("SELECT noisy()") == 1
        assert await session.change(f"INSERT INTO {await session.table(SNIPPETS)} (amount) SELECT noisy()") == (0, 1)
        slow = "SELECT n, repeat('x', 1000) AS x, pg_sleep(0.0001) AS s FROM generate_series(1, 3000) AS n"
        assert len(await session.rows(slow)) == 3000
        running = asyncio.create_task(session.json("SELECT pg_sleep(90)", within_s=0.3))
        await fails(TransientFailure, running)
        beating.cancel()
    assert worst_s <= 0.3  # each of them takes longer than that


async def test_notices_are_forgotten(place: Database) -> None:
    async with place.connected() as session:
        for _ in range(5):
            await session.ddl("DROP TABLE IF EXISTS never_there")
        assert session.connection._link.driver.notices == []  # type: ignore[attr-defined]


async def test_many_columns_and_long_rows(place: Database) -> None:
    """As far as PostgreSQL goes; a connection that had a very long row is not kept."""
    async with place.connected() as session:
        names = ",".join(f"{n} AS c{n}" for n in range(1600))
        assert len((await session.rows(f"SELECT {names}"))[0]) == 1600
        assert await session.json("SELECT FROM generate_series(1, 2)") == b"[{},{}]"
        assert not session.connection.broken
        assert len(str(await session.value(SNIPPETS.wide_row.format(size=15 << 20)))) == 15 << 20
        assert session.connection.broken
    async with place.connected(Limits(bytes=4 << 20)) as session:
        data = await session.value("SELECT decode(repeat('ff', 3000000), 'hex')")
        assert len(str(data)) == 4_000_000
        error = await fails(CallFailed, session.value("SELECT decode(repeat('ff', 3200000), 'hex')"))
        assert "4194304 bytes" in str(error)


async def test_many_long_rows(place: Database) -> None:
    """The server sends them as it makes them: the cap is reached at once, and nothing goes to its disk."""
    async with place.connected() as session:
        began = clock.monotonic()
        await fails(CallFailed, session.json("SELECT n, repeat('x', 1000000) AS x FROM generate_series(1, 9000) AS n"))
        assert clock.monotonic() - began <= 2.0
    async with place.connected() as session:
        assert await session.value("SELECT temp_bytes < 100000000 FROM pg_stat_database WHERE datname = 'atmo'") is True


async def test_the_order_of_rows(place: Database) -> None:
    """It is the query's, also where a LIMIT of ours stands around one of its own."""
    async with place.connected(Limits(rows=1000)) as session:
        table = await session.table(SNIPPETS)
        await session.change(f"INSERT INTO {table} (amount) SELECT i * 7919 % 1000 FROM generate_series(1, 1000) AS i")
        for tail in ("", " LIMIT ?", " FETCH FIRST ? ROWS ONLY", " OFFSET 0"):
            variables = ["1000"] if "?" in tail else []
            got = await session.rows(f"SELECT amount FROM {table} ORDER BY amount DESC{tail}", *variables)
            assert [row["amount"] for row in got] == list(range(999, -1, -1))
        again = await session.rows(f"SELECT amount AS a, amount AS a FROM {table} ORDER BY 1 LIMIT 2")
        assert again == [{"a": 0, "a_2": 0}, {"a": 1, "a_2": 1}]
        await fails(CallFailed, session.rows(f"SELECT 1 FROM {table}, (VALUES (1), (2)) AS v LIMIT 1001"))


async def test_a_write_whose_answer_is_too_long(place: Database) -> None:
    """Nobody has waited for its end."""
    async with place.connected(Limits(bytes=100_000)) as session:
        table = await session.table(SNIPPETS)
        insert = f"INSERT INTO {table} (name) SELECT repeat('x', 1000) FROM generate_series(1, 20000) RETURNING name"
        await fails(OutcomeUnknown, session.change(insert))
        assert session.connection.broken


async def test_check_knows_what_it_cannot(place: Database) -> None:
    """What cannot be prepared, or only with a literal in a variable's place, is not complained of."""
    async with place.connected() as session:
        for query in ("EXPLAIN SELECT 1", "SHOW search_path", "SELECT jsonb_build_object('a', ?)", "SELECT ? AS a"):
            assert await session.backend.check(place.prepare(query, "select")) == ""
        several = [place.prepare(f"SELECT {n} + no_such_column") for n in range(5)] + [place.prepare("SELECT 1")]
        complaints = await asyncio.gather(*(session.backend.check(statement) for statement in several))
        assert complaints == ['column "no_such_column" does not exist'] * 5 + [""]
        complaint = await session.backend.check(place.prepare("SELECT no_such_function(?)"))
        assert complaint == "function no_such_function(unknown) does not exist"
