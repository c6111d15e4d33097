"""SQLite's three threads: who waits for whom, what is interrupted, and what a transaction is after that."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from atmo_farm import clock
from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure
from atmo_farm.datasource.pool import Pool, PoolOptions
from atmo_farm.datasource.sqlite import jobs, results
from atmo_farm.datasource.sqlite.connection import SqliteConnection
from atmo_farm.datasource.sqlite.turns import Turns
from atmo_farm.ipc.frames import Op
from tests.contract.asking import Asked, Asker, outcome, ready
from tests.contract.databases import Database, Session, fails
from tests.contract.heartbeat import Heartbeat
from tests.contract.test_database_sqlite import SNIPPETS, sqlite, until_running


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return sqlite(str(tmp_path / "app.db"))


INSERT = "INSERT INTO {table} (name, amount) VALUES (?, ?)"


@contextlib.asynccontextmanager
async def sessions(database: Database, count: int) -> AsyncIterator[list[Session]]:
    """Handles of one backend."""
    backend = database.backend()
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(database.another(backend)) for _ in range(count)]
    await backend.close()


@pytest.mark.alone
async def test_writers_go_on_while_both_readers_are_busy_and_the_loop_too(database: Database) -> None:
    async with sessions(database, 3) as (first, second, writer):
        table = await writer.table(SNIPPETS)
        reading = [asyncio.create_task(each.json(SNIPPETS.endless_select)) for each in (first, second)]
        for each in (first, second):
            await until_running(each)
        async with Heartbeat() as heart:
            for number in range(50):
                assert (await writer.change(INSERT.format(table=table), "a", "1"))[0] == number + 1
        assert heart.longest_s < 0.25
        for each in (first, second):
            each.connection.cancel()
        for task in reading:
            await fails(TransientFailure, task)


@pytest.mark.alone
async def test_a_third_reader_waits_for_a_thread_and_no_longer_than_its_deadline(database: Database) -> None:
    async with sessions(database, 3) as (first, second, third):
        reading = [asyncio.create_task(each.json(SNIPPETS.endless_select)) for each in (first, second)]
        for each in (first, second):
            await until_running(each)
        began = clock.monotonic()
        error = await fails(TransientFailure, third.json("SELECT 1", within_s=0.2))
        assert str(error) == jobs.OVER
        assert 0.15 <= clock.monotonic() - began <= 0.3
        waiting = asyncio.create_task(third.rows("SELECT 1 AS a"))
        await asyncio.sleep(0)
        first.connection.cancel()
        assert await waiting == [{"a": 1}]
        assert not third.connection.broken
        second.connection.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


async def test_readers_see_what_is_committed_while_a_transaction_is_open(database: Database) -> None:
    async with sessions(database, 2) as (writer, reader):
        table = await writer.table(SNIPPETS)
        await writer.connection.begin()
        for number in range(1, 20):
            await writer.change(INSERT.format(table=table), str(number), "1")
            assert await writer.value(f"SELECT count(*) FROM {table}") == number
            assert await reader.value(f"SELECT count(*) FROM {table}") == 0
        await writer.connection.commit(clock.monotonic() + 10)
        assert await reader.value(f"SELECT count(*) FROM {table}") == 19


async def test_writers_have_their_turns_in_order_and_one_waits_for_a_transaction(database: Database) -> None:
    async with sessions(database, 12) as (first, *others):
        table = await first.table(SNIPPETS)
        await first.connection.begin()
        await first.change(INSERT.format(table=table), "first", "0")
        waiting = []
        for number, each in enumerate(others):
            waiting.append(asyncio.create_task(each.change(INSERT.format(table=table), str(number), "0")))
            await asyncio.sleep(0)
        await others[0].connection.ping()  # it reads
        waiting[3].cancel()
        others[5].connection.cancel()
        await fails(TransientFailure, waiting[5])
        assert not any(task.done() for number, task in enumerate(waiting) if number not in (3, 5))
        await first.connection.rollback()
        await asyncio.gather(*waiting, return_exceptions=True)
        names = [row["name"] for row in await first.rows(f"SELECT name FROM {table} ORDER BY id")]
        assert names == [str(number) for number in range(11) if number not in (3, 5)]


async def test_a_turn_that_does_not_come_ends_at_the_deadline(database: Database) -> None:
    async with sessions(database, 2) as (first, second):
        table = await first.table(SNIPPETS)
        await first.connection.begin()
        await first.change(INSERT.format(table=table), "a", "1")
        error = await fails(TransientFailure, second.json(INSERT.format(table=table), "b", "1", within_s=0.1))
        assert "kept the database busy" in str(error)
        await first.connection.commit(clock.monotonic() + 10)
        assert await second.change(INSERT.format(table=table), "c", "1") == (2, 1)


async def test_a_turn_that_was_given_to_a_task_that_is_cancelled_at_that_moment_goes_on() -> None:
    turns = Turns()
    await turns.wait(turns.ask(), clock.monotonic() + 10)
    turn = turns.ask()
    task = asyncio.create_task(turns.wait(turn, clock.monotonic() + 10))
    await asyncio.sleep(0)
    turns.pass_on()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert turns.ask().done()


async def test_an_interrupted_write_ends_its_transaction(database: Database) -> None:
    """SQLite rolls it back; what follows says so, and the connection is as good as new after the ROLLBACK."""
    async with sessions(database, 2) as (session, other):
        table = await session.table(SNIPPETS)
        await session.connection.begin()
        await session.change(INSERT.format(table=table), "a", "1")
        await fails(TransientFailure, session.json(SNIPPETS.endless_insert.format(table=table), within_s=0.2))
        assert await other.change(INSERT.format(table=table), "b", "1") == (1, 1)
        for doing in (session.rows(f"SELECT * FROM {table}"), session.connection.commit(clock.monotonic() + 10)):
            error = await fails(TransientFailure, doing)
            assert str(error) == "the transaction is over: it was rolled back"
        await session.connection.rollback()
        assert not session.connection.broken
        assert await session.rows(f"SELECT name FROM {table}") == [{"name": "b"}]


async def test_an_interrupted_read_leaves_its_transaction_open(database: Database) -> None:
    async with sessions(database, 1) as (session,):
        table = await session.table(SNIPPETS)
        await session.connection.begin()
        await session.change(INSERT.format(table=table), "a", "1")
        await fails(TransientFailure, session.json(SNIPPETS.endless_select, within_s=0.1))
        assert await session.rows(f"SELECT name FROM {table}") == [{"name": "a"}]
        await session.connection.commit(clock.monotonic() + 10)
        assert await session.rows(f"SELECT name FROM {table}") == [{"name": "a"}]


async def test_a_statement_that_was_cancelled_before_it_began_is_never_run(database: Database) -> None:
    """It ends at once, also when its thread is busy with another."""
    async with sessions(database, 3) as (first, second, third):
        reading = [asyncio.create_task(each.json(SNIPPETS.endless_select)) for each in (first, second)]
        for each in (first, second):
            await until_running(each)
        waiting = asyncio.create_task(third.json(SNIPPETS.endless_select))
        await asyncio.sleep(0)
        third.connection.cancel()
        await fails(TransientFailure, waiting)
        first.connection.cancel()
        second.connection.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        assert await third.rows("SELECT 1 AS a") == [{"a": 1}]


@pytest.mark.alone
async def test_a_disk_that_does_not_answer(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads fail as transient, writes as unknown, a second after their deadlines; then the pool has another handle."""
    monkeypatch.setattr(jobs, "STUCK_S", 0.2)
    answers = threading.Event()

    def hang(*_: object) -> bytes:
        answers.wait(20)
        return b"[]"

    async with sessions(database, 3) as (reader, writer, other):
        table = await writer.table(SNIPPETS)
        monkeypatch.setattr(results.Rendered, "read", hang)
        monkeypatch.setattr(results.Rendered, "write", hang)
        reading = reader.json("SELECT 1", within_s=0.1)
        writing = writer.json(INSERT.format(table=table), "a", "1", within_s=0.1)
        began = clock.monotonic()
        error, unknown = await asyncio.gather(reading, writing, return_exceptions=True)
        assert (type(error), type(unknown)) == (TransientFailure, OutcomeUnknown)
        assert clock.monotonic() - began < 0.5
        assert reader.connection.broken and writer.connection.broken
        monkeypatch.undo()
        answers.set()
        assert await other.rows("SELECT 1 AS a") == [{"a": 1}]
        assert (await other.change(INSERT.format(table=table), "b", "1"))[1] == 1


async def test_results_of_writes(database: Database) -> None:
    async with sessions(database, 1) as (session,):
        table = await session.table(SNIPPETS)
        insert = f"INSERT INTO {table} (id, name) VALUES (?, ?)"
        assert await session.change(f"{insert} RETURNING amount, id", "7", "a") == (7, 1)
        assert await session.change(f"{insert} RETURNING id * 10 AS a", "8", "a") == (80, 1)
        assert await session.change(f"{insert} ON CONFLICT DO NOTHING", "8", "a") == (0, 0)
        assert await session.change(f"WITH a AS (SELECT 1) {insert}, (9, 'b')", "10", "a") == (9, 2)
        assert await session.change(f"UPDATE {table} SET name = 'c'") == (0, 4)
        assert await session.change(f"DELETE FROM {table}") == (0, 4)
        assert await session.change(f"DELETE FROM {table}") == (0, 0)
        await session.ddl(f"CREATE INDEX {table}_name ON {table} (name)")


async def test_a_write_with_a_result_is_done_only_if_the_result_is_given(database: Database) -> None:
    async with database.connected(Limits(rows=2)) as session:
        table = await session.table(SNIPPETS)
        insert = f"INSERT INTO {table} (name) SELECT value FROM json_each(?) RETURNING id, name"
        got = await session.json(insert, '["a", "b"]', type_="select")
        assert msgspec.json.decode(got) == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
        await fails(CallFailed, session.json(insert, '["c", "d", "e"]', type_="select"))
        assert await session.value(f"SELECT count(*) FROM {table}") == 2
        assert await session.change(f"INSERT INTO {table} (name) VALUES ('f')") == (3, 1)


async def test_a_constraint_that_is_checked_at_the_commit(database: Database) -> None:
    async with sessions(database, 1) as (session,):
        await session.ddl("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        await session.ddl("CREATE TABLE children (parent INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")
        await session.connection.begin()
        await session.change("INSERT INTO children VALUES (1)")
        error = await fails(CallFailed, session.connection.commit(clock.monotonic() + 10))
        assert str(error) == "FOREIGN KEY constraint failed"
        await session.connection.rollback()
        assert not session.connection.broken
        assert await session.rows("SELECT * FROM children") == []


async def test_queries_that_would_begin_or_end_transactions(database: Database) -> None:
    async with sessions(database, 2) as (session, other):
        table = await session.table(SNIPPETS)
        error = await fails(CallFailed, session.json("BEGIN", type_="update"))
        assert "cannot begin a transaction" in str(error)
        assert await other.change(INSERT.format(table=table), "a", "1") == (1, 1)
        await session.connection.begin()
        await session.change(INSERT.format(table=table), "b", "1")
        await session.json("COMMIT", type_="update")
        await fails(TransientFailure, session.json(f"SELECT * FROM {table}"))
        await session.connection.rollback()
        assert await other.change(INSERT.format(table=table), "c", "1") == (3, 1)


async def test_a_text_that_is_no_unicode_and_parameters_of_other_kinds(database: Database) -> None:
    async with sessions(database, 1) as (session,):
        error = await fails(CallFailed, session.json("SELECT CAST(X'C3FF' AS TEXT) AS a"))
        assert str(error) == "a text in the result is not Unicode"
        error = await fails(CallFailed, session.json("SELECT :name, @other"))
        assert str(error) == "the query has parameters other than `?` or `$n`"
        assert await session.rows("SELECT $2 AS b, $1 AS a, $2 AS c", "1", "2") == [{"b": "2", "a": "1", "c": "2"}]
        assert await session.rows("SELECT 1 AS a LIMIT ?", "9999999999999999999") == [{"a": 1}]


async def test_closing_a_handle_at_any_moment_leaves_no_lock(
    database: Database, amount: Callable[[int, int], int]
) -> None:
    chance = random.Random(6)
    async with sessions(database, 1) as (session,):
        table = await session.table(SNIPPETS)
        for number in range(amount(10, 60)):
            connection = session.backend.connection()
            assert isinstance(connection, SqliteConnection)
            await connection.open()
            other = Session(database, session.backend, connection)

            async def work(other: Session = other) -> None:
                await other.connection.begin()
                await other.change(INSERT.format(table=table), "never", "1")
                await other.change(SNIPPETS.endless_insert.format(table=table))

            task = asyncio.create_task(work())
            await asyncio.sleep(chance.random() * 0.01)
            if number % 2:
                task.cancel()
            connection.close()
            await asyncio.gather(task, return_exceptions=True)
            assert (await session.change(INSERT.format(table=table), "kept", "1"))[1] == 1
        assert await session.rows(f"SELECT DISTINCT name FROM {table}") == [{"name": "kept"}]


@contextlib.asynccontextmanager
async def pool(database: Database, *queries: str) -> AsyncIterator[tuple[Pool, Asker]]:
    """A pool whose queries are named by their numbers."""
    statements = {str(number): database.prepare(query) for number, query in enumerate(queries)}
    source = Pool("database default", database.backend(), statements, PoolOptions(size=4, quota=4))
    await source.open()
    await ready(source)
    yield source, Asker(source)
    await source.close()


def ask(asker: Asker, number: int, *variables: bytes, transaction: int = 0, begins: bool = False) -> Asked:
    return asker.ask(Op.QUERY, str(number), list(variables), transaction, begins)


async def test_behind_a_pool(database: Database) -> None:
    """Queries, a transaction, one that its client leaves, and a cancelled call."""
    queries = (
        "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, name TEXT)",
        "INSERT INTO t (name) VALUES (?)",
        "SELECT name FROM t",
        SNIPPETS.endless_select,
    )
    async with database.connected() as session:
        await session.ddl(queries[0])
    async with pool(database, "SELECT 1", *queries[1:]) as (source, asker):
        answers = [ask(asker, 1, b"x%d" % number) for number in range(20)]
        assert [msgspec.json.decode(await each)["rowsAffected"] for each in answers] == [1] * 20
        await ask(asker, 1, b"in", transaction=1, begins=True)
        assert len(msgspec.json.decode(await ask(asker, 2, transaction=1))) == 21
        assert len(msgspec.json.decode(await ask(asker, 2))) == 20
        waiting = ask(asker, 1, b"after")
        await asker.ask(Op.COMMIT, "default", 1)
        await waiting
        await ask(asker, 1, b"left", transaction=2, begins=True)
        source.forget(asker)
        assert len(msgspec.json.decode(await ask(asker, 2))) == 22
        endless = ask(asker, 3)
        await asyncio.sleep(0.01)
        endless.cancel()
        assert await outcome(endless) == "cancelled"
        assert [await outcome(ask(asker, 0)) for _ in range(4)] == [b'[{"1":1}]'] * 4
