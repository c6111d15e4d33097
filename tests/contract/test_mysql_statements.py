"""Statements of MySQL beyond the suite of all backends: caps, transactions, and how statements are stopped."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from atmo_farm import clock
from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure, Unreachable
from atmo_farm.datasource.mysql import MySqlBackend
from tests.contract import test_database_mysql as mysql
from tests.contract.heartbeat import Heartbeat
from tests.contract.kit import PATIENCE_S, Database, Session, fails
from tests.contract.suite_limits import Growth
from tests.contract.test_database_mysql import SNIPPETS, database
from tests.contract.test_mysql_session import as_admin
from tests.servers import fake_mysql
from tests.servers.fake_mysql import UTF8MB4, VARCHAR, FakeMySql, rows
from tests.servers.mariadb import PASSWORD, MariaDbServer


@pytest.fixture
def here(mariadb: MariaDbServer) -> Database:
    return database(mariadb.dsn("atmo", PASSWORD), mariadb)


async def numbers(session: Session, count: int) -> str:
    """A table with the amounts from 1 to count."""
    table = await session.table(SNIPPETS)
    await session.json(f"INSERT INTO {table} (amount) SELECT seq FROM seq_1_to_{count}", type_="insert")
    return table


# Caps


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("SELECT amount FROM {t}", 11),
        ("SELECT amount, amount FROM {t}", 11),
        ("SELECT amount FROM {t} ORDER BY amount DESC", 11),
        ("SELECT amount FROM {t} FOR UPDATE", 11),
        ("SELECT amount FROM {t} UNION ALL SELECT amount FROM {t}", 22),
        ("(SELECT amount FROM {t} LIMIT 6) UNION ALL (SELECT amount FROM {t} LIMIT 5)", 11),
        ("WITH a AS (SELECT amount FROM {t}) SELECT * FROM a", 11),
        ("VALUES (1),(2),(3),(4),(5),(6),(7),(8),(9),(10),(11)", 11),
        ("TABLE_OF {t}", 11),
        ("SELECT amount FROM {t} LIMIT 11", 11),
        ("SELECT amount FROM {t} ORDER BY amount LIMIT 5 OFFSET 3", 5),
        ("SELECT amount FROM {t} UNION SELECT amount + 5 FROM {t} LIMIT 12", 12),
        ("SELECT count(*) FROM (SELECT amount FROM {t}) a", 1),
        ("SELECT amount FROM {t} WHERE amount IN (SELECT amount FROM {t} WHERE amount > 4)", 7),
        ("SHOW COLUMNS FROM {t}", 4),
    ],
)
async def test_rows_up_to_the_cap(here: Database, query: str, count: int) -> None:
    """Whatever form a query has, it runs as it is written: up to the cap it gives all of its rows, else an error. The
    connection goes on."""
    async with here.connected(Limits(rows=10)) as session, here.connected() as uncapped:
        text = query.replace("TABLE_OF", "SELECT * FROM").format(t=await numbers(uncapped, 11))
        assert len(await uncapped.rows(text)) == count
        if count <= 10:
            assert len(await session.rows(text)) == count
        else:
            assert "more than 10 rows" in str(await fails(CallFailed, session.rows(text)))
        assert await session.rows("SELECT 1 AS a") == [{"a": 1}]


async def test_the_cap_is_for_selects_alone(here: Database) -> None:
    """Other statements change as many rows as they say."""
    async with here.connected(Limits(rows=3)) as session:
        table = await numbers(session, 50)
        assert (await session.change(f"INSERT INTO {table} (amount) SELECT amount FROM {table}"))[1] == 50
        assert (await session.change(f"UPDATE {table} SET amount = amount + 1"))[1] == 100
        assert (await session.change(f"DELETE FROM {table} WHERE amount > 1"))[1] == 100


async def test_an_order_of_descending(here: Database) -> None:
    """The cap takes nothing away before rows are put in order."""
    async with here.connected(Limits(rows=10)) as session:
        table = await numbers(session, 10)
        got = await session.rows(f"SELECT amount FROM {table} ORDER BY amount DESC")
        assert [row["amount"] for row in got] == list(range(10, 0, -1))


@pytest.mark.parametrize("query", [SNIPPETS.many_rows, SNIPPETS.many_rows + " LIMIT 9999999"])
async def test_ten_million_rows_and_the_loop(here: Database, query: str) -> None:
    """With a LIMIT of the query's own or without: an error in 2 s and 64 MiB, and the loop goes on. The connection goes
    on too where the server itself has ended the answer."""
    async with here.connected() as session:
        async with Heartbeat() as heart:
            with Growth() as growth:
                began = clock.monotonic()
                await fails(CallFailed, session.json(query))
                assert clock.monotonic() - began <= 2
        assert growth.mib <= 64
        assert heart.longest_s < 1
        assert session.connection.broken is ("LIMIT" in query)


async def test_long_rows(here: Database) -> None:
    """Rows of 1 MiB are weighed a few at a time."""
    async with here.connected(Limits(bytes=4 << 20)) as session:
        with Growth() as growth:
            error = await fails(CallFailed, session.rows(f"SELECT repeat('x', {1 << 20}) AS a FROM seq_1_to_1000"))
        assert "longer than" in str(error)
        assert growth.mib <= 3 * 4 + 8


async def test_returning(here: Database) -> None:
    """An INSERT … RETURNING counts what it has inserted, of one row or many."""
    async with here.connected() as session:
        table = await session.table(SNIPPETS)
        assert await session.change(f"INSERT INTO {table} (amount) VALUES (1), (2) RETURNING id") == (1, 2)
        query = f"INSERT INTO {table} (name) SELECT repeat('x', 100) FROM seq_1_to_1000 RETURNING {{}}, name"
        first, count = await session.change(query.format("id"))
        assert first >= 3
        assert count == 1000
        assert await session.change(query.format("amount")) == (0, 1000)


async def test_a_select_without_rows(here: Database) -> None:
    """A statement that gives none, of type select, gives an empty array."""
    async with here.connected() as session:
        assert await session.json("DO 1", type_="select") == b"[]"


async def test_no_files_no_second_statement(here: Database) -> None:
    """The server gets no file of ours, and a text that turns out to be two statements is an error."""
    async with here.connected() as session:
        table = await session.table(SNIPPETS)
        await fails(
            CallFailed, session.json(f"LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE {table}", type_="insert")
        )
        assert await session.rows("SELECT 1 AS a") == [{"a": 1}]
        await fails(CallFailed, session.json(f"SELECT 1 /*! ; DELETE FROM {table} */ + 1", type_="select"))


async def test_local_infile_that_nobody_asked_for() -> None:
    """A server that answers a query by asking for a file gets nothing of it."""
    got: list[bytes] = []

    async def ask(server: FakeMySql, _: bytes) -> None:
        server.write(fake_mysql.packets(1, b"\xfb/etc/passwd"))
        got.append(await server.read())

    async with fake_mysql.fake_mysql(ask) as port, database(f"u@tcp(127.0.0.1:{port})/").connected() as session:
        await fails(CallFailed, session.json("SELECT 1", within_s=1.0), exactly=False)
    assert b"root" not in b"".join(got)


# On the loop or on a thread


async def test_small_answers_need_no_thread(here: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 16 KiB; larger ones, and large statements, do."""
    async with here.connected() as session:
        assert isinstance(session.backend, MySqlBackend)
        jobs: list[object] = []
        run = session.backend._threads.run

        def counted(job: Callable[[], object]) -> asyncio.Future[object]:
            jobs.append(job)
            return run(job)

        monkeypatch.setattr(session.backend._threads, "run", counted)
        table = await numbers(session, 100)
        for _ in range(20):
            assert len(await session.rows(f"SELECT amount FROM {table}")) == 100
            await session.change(f"UPDATE {table} SET amount = amount + 1 WHERE amount = ?", "1")
            await fails(CallFailed, session.rows("SELECT * FROM absent"))
            await session.connection.ping()
        assert not jobs
        assert len(await session.rows("SELECT repeat('x', 100000) AS a")) == 1
        assert len(jobs) == 1
        await session.change(SNIPPETS.insert.format(table=table), "x" * 100_000, "1")
        assert len(jobs) == 2


# Transactions


async def test_ddl_in_a_transaction(here: Database) -> None:
    """It would commit: it is refused, and the transaction goes on."""
    async with here.connected() as session, here.connected() as other:
        table = await session.table(SNIPPETS)
        await session.connection.begin()
        await session.fill(table, SNIPPETS, "a")
        for statement in (
            f"TRUNCATE {table}",
            "CREATE TABLE x (a int)",
            "/*!50000 CREATE TABLE x (a int) */",
            "-- a\nDROP TABLE x",
        ):
            assert "transaction" in str(await fails(CallFailed, session.json(statement, type_="update")))
        assert await other.value(f"SELECT count(*) FROM {table}") == 0
        await session.connection.commit(clock.monotonic() + PATIENCE_S)
        assert await other.value(f"SELECT count(*) FROM {table}") == 1


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SET autocommit = 0",
        "USE mysql",
        "LOCK TABLES x READ",
        "SET NAMES gbk",
        "(SET @a = 1)",
    ],
)
async def test_statements_that_change_the_connection(here: Database, statement: str) -> None:
    """They are refused, in a transaction and outside."""
    async with here.connected() as session:
        await fails(CallFailed, session.json(statement, type_="update"))
        await session.connection.begin()
        await fails(CallFailed, session.json(statement, type_="update"))
        await session.connection.rollback()
        assert await session.rows("SELECT @@autocommit AS a") == [{"a": 1}]


async def test_a_deadlock(here: Database) -> None:
    """Its victim fails as transient. MySQL has undone its whole transaction: nothing more runs in it, and it cannot be
    committed, until it was rolled back."""
    async with here.connected() as one, here.connected() as two:
        table = await numbers(one, 2)
        update = f"UPDATE {table} SET name = ? WHERE id = ?"
        for number, session in enumerate((one, two), 1):
            await session.connection.begin()
            await session.change(update, "a", str(number))
        ends = await asyncio.gather(one.change(update, "b", "2"), two.change(update, "b", "1"), return_exceptions=True)
        victim = one if isinstance(ends[0], BaseException) else two
        assert sorted(type(end).__name__ for end in ends) == ["TransientFailure", "tuple"]
        await fails(TransientFailure, victim.change(f"INSERT INTO {table} (name) VALUES ('autocommitted')"))
        await fails(TransientFailure, victim.connection.commit(clock.monotonic() + PATIENCE_S))
        await victim.connection.rollback()
        winner = two if victim is one else one
        await winner.connection.commit(clock.monotonic() + PATIENCE_S)
        assert await victim.rows(f"SELECT name FROM {table} ORDER BY name") == [{"name": "a"}, {"name": "b"}]
        assert not victim.connection.broken


async def test_a_lock_that_is_held(here: Database) -> None:
    """Waited for until the deadline, or the server's own time; a transient failure then."""
    async with here.connected() as holder, here.connected() as waiter:
        table = await numbers(holder, 1)
        update = f"UPDATE {table} SET amount = 5"
        await holder.connection.begin()
        await holder.change(update)
        began = clock.monotonic()
        await fails(TransientFailure, waiter.json(update, within_s=0.3))
        assert clock.monotonic() - began < 1.3
        assert not waiter.connection.broken
        query = f"SET STATEMENT innodb_lock_wait_timeout = 1 FOR UPDATE {table} SET amount = 6"
        assert "lock" in str(await fails(TransientFailure, waiter.json(query, type_="update")))
        await holder.connection.rollback()
        assert await waiter.value(f"SELECT amount FROM {table}") == 1


# Stopping


async def test_connections_that_the_server_ends(here: Database, mariadb: MariaDbServer) -> None:
    """KILL: under a statement that fails as transient; of an idle connection, which is lost then."""
    async with here.connected() as busy, here.connected() as idle:
        running = asyncio.create_task(busy.json(SNIPPETS.endless_select))
        await mysql.TestMySql().until_running(busy)
        for session in (busy, idle):
            as_admin(mariadb, f"KILL {thread_id(session)}")
        await fails(TransientFailure, running)
        assert busy.connection.broken
        while not idle.connection.is_lost():
            await asyncio.sleep(0)


async def test_the_control_connection_comes_back(here: Database, mariadb: MariaDbServer) -> None:
    """One that was lost is made anew when it is needed."""
    async with here.connected() as session:
        for _ in range(3):
            await fails(TransientFailure, session.json(SNIPPETS.endless_select, within_s=0.1))
            assert not session.connection.broken
            assert isinstance(session.backend, MySqlBackend)
            control = session.backend._canceller._handle
            assert control is not None
            as_admin(mariadb, f"KILL {control.thread_id()}")


async def test_another_server_behind_the_address(here: Database) -> None:
    """The control connection may lead to another server, where the number is somebody else's: nothing is stopped there,
    and the connection is given up."""
    killed: list[bytes] = []

    async def answer(server: FakeMySql, statement: bytes) -> None:
        if b"@@hostname" in statement:
            columns = [(name, VARCHAR, UTF8MB4) for name in ("host", "port", "server")]
            server.write(rows(columns, [[b"another", b"1", b"1"]]))
        elif statement.startswith(b"KILL"):
            killed.append(statement)

    async with fake_mysql.fake_mysql(answer) as port, database(f"u@tcp(127.0.0.1:{port})/").connected() as session:
        began = clock.monotonic()
        await fails(TransientFailure, session.json("SELECT 1", within_s=0.2))
        assert clock.monotonic() - began < 1.0
        assert session.connection.broken
    assert not killed


async def test_many_are_stopped_at_once(here: Database) -> None:
    """Each by its own number; the connections go on."""
    backend = here.backend()
    sessions = [Session(here, backend, backend.connection()) for _ in range(8)]
    for session in sessions:
        await session.connection.open()
    for _ in range(5):
        await asyncio.gather(
            *(fails(TransientFailure, session.json(SNIPPETS.endless_select, within_s=0.2)) for session in sessions)
        )
        assert not any(session.connection.broken for session in sessions)
        assert await asyncio.gather(*(session.value(f"SELECT {n}") for n, session in enumerate(sessions))) == list(
            range(8)
        )
    for session in sessions:
        session.connection.close()
    await backend.close()


async def test_stopped_at_any_moment(here: Database, amount: Callable[[int, int], int]) -> None:
    """A statement that was not cancelled never suffers from the cancel of the one before."""
    chance = random.Random(3)
    async with here.connected() as session:
        table = await numbers(session, 1)
        changed = 0
        for number in range(amount(400, 20_000)):
            update = f"UPDATE {table} SET amount = amount + 1"
            running = asyncio.ensure_future(session.change(update))
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            session.connection.cancel()
            try:
                changed += (await running)[1]
            except TransientFailure:
                pass
            assert await session.rows(f"SELECT {number} AS a") == [{"a": number}]
            assert not session.connection.broken
        assert await session.value(f"SELECT amount FROM {table}") == changed + 1


async def test_stopped_when_it_has_ended(here: Database) -> None:
    """A statement that ends while the server is told to stop it: the next one is not stopped in its place."""
    async with here.connected() as session:
        for number in range(60):
            running = asyncio.ensure_future(session.rows("SELECT 1 AS a"))
            for _ in range(number % 6):
                await asyncio.sleep(0)
            session.connection.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert await session.rows("SELECT SLEEP(0.01) AS a") == [{"a": 0}]
        assert not session.connection.broken


@pytest.mark.alone
async def test_read_timeout(here: Database, mariadb: MariaDbServer) -> None:
    """The DSN's readTimeout is a deadline of every statement."""
    async with database(mariadb.dsn("atmo", PASSWORD, query="readTimeout=200ms"), mariadb).connected() as session:
        began = clock.monotonic()
        await fails(TransientFailure, session.json(SNIPPETS.endless_select))
        assert 0.15 <= clock.monotonic() - began <= 0.8
        assert not session.connection.broken


async def test_check_needs_no_values(here: Database, mariadb: MariaDbServer) -> None:
    """Marks where only literals may stand, statements that cannot be prepared: no complaint. Afterwards, and after its
    connection was lost, it goes on; without a server it is unreachable."""
    backend = here.backend()
    for query in ("SELECT DATE ? AS a", "SELECT 1 LIMIT ?", "SELECT interval(?, 1)", "SHOW WARNINGS", "XA RECOVER"):
        assert await backend.check(here.prepare(query, "select")) == ""
    assert "absent" in await backend.check(here.prepare("SELECT * FROM absent WHERE a = TIME ?"))
    assert isinstance(backend, MySqlBackend)
    assert backend._checker is not None
    as_admin(mariadb, f"KILL {backend._checker.thread_id}")
    assert await asyncio.gather(*(backend.check(here.prepare("SELECT 1")) for _ in range(5))) == [""] * 5
    await backend.close()
    nobody = database("u@tcp(127.0.0.1:1)/").backend()
    await fails(Unreachable, nobody.check(here.prepare("SELECT 1")))
    await nobody.close()


def thread_id(session: Session) -> int:
    """The server's number of a connection."""
    number: int = session.connection._runner.session.link.thread_id  # type: ignore[attr-defined]
    return number


# Selects that write


@pytest.mark.parametrize(
    ("made_as", "kind"),
    [
        ("CONTAINS SQL", OutcomeUnknown),
        ("MODIFIES SQL DATA", OutcomeUnknown),
        ("READS SQL DATA", TransientFailure),
    ],
)
async def test_a_select_that_calls_a_function(
    here: Database, mariadb: MariaDbServer, made_as: str, kind: type[CallFailed]
) -> None:
    """Of the database's own; it may write, unless it was declared not to: when its answer is lost, nobody knows."""
    as_admin(mariadb, f"CREATE OR REPLACE FUNCTION Sleeper(n int) RETURNS int {made_as} RETURN SLEEP(n)")
    sleeping = "SELECT count(*) FROM information_schema.processlist WHERE state = 'User sleep' AND id = ?"
    async with here.connected() as session, database(mariadb.dsn()).connected() as other:
        for query in ("SELECT sleeper(0) AS a", "SELECT max(atmo . `sleeper` (0)) AS a"):
            assert await session.rows(query) == [{"a": 0}]
        running = asyncio.create_task(session.rows("SELECT count(*), sleeper (90)"))
        while not await other.value(sleeping, str(thread_id(session))):
            pass
        as_admin(mariadb, f"KILL {thread_id(session)}")
        await fails(kind, running)


async def test_functions_are_looked_up_once() -> None:
    """For each query, before it runs first; a query without calls, or one that writes anyway, needs none."""
    asked: list[str] = []

    async def answer(server: FakeMySql, statement: bytes) -> None:
        asked.append(statement.decode())
        server.write(rows([("n", fake_mysql.LONGLONG, fake_mysql.BINARY)], [[b"0"]]))

    async with fake_mysql.fake_mysql(answer) as port:
        fake = database(f"u@tcp(127.0.0.1:{port})/")
        backend = fake.backend()
        calls, plain = fake.prepare("SELECT f (1), g(?) AS `h`, 'i(' -- j()\n"), fake.prepare("SELECT 1")
        inserts = fake.prepare("INSERT INTO t SELECT k(1)")
        for _ in range(2):
            async with fake.another(backend) as session:
                for statement in (calls, calls, plain, inserts):
                    await session.connection.run(statement, ["x"], "", clock.monotonic() + PATIENCE_S)
        await backend.close()
    lookups = [statement for statement in asked if "ROUTINES" in statement]
    assert len(asked) == 8 + len(lookups)
    assert len(lookups) == 1
    assert "('f', 'g')" in lookups[0]
