"""Servers that keep MySQL's backend waiting: the loop goes on, and so do the others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from atmo_farm import clock
from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure, Unreachable
from tests.contract import test_database_mysql as mysql
from tests.contract.heartbeat import Heartbeat
from tests.contract.kit import Database, Session, fails
from tests.contract.test_database_mysql import SNIPPETS, database
from tests.servers import fake_mysql
from tests.servers.fake_mysql import UTF8MB4, VARCHAR, FakeMySql, rows
from tests.servers.mariadb import PASSWORD, MariaDbServer

STILL_S = 1.0
"""The loop never stands still for so long, on a busy machine either; the servers here are silent for longer."""

TEXT = [("a", VARCHAR, UTF8MB4)]


@pytest.fixture
def silent() -> Iterator[MariaDbServer]:
    """A server that may be stopped."""
    server = MariaDbServer()
    server.start()
    yield server
    server.remove()


def of(server: MariaDbServer) -> Database:
    return database(server.dsn("atmo", PASSWORD), server)


async def until_on_thread(session: Session) -> None:
    """Return when a thread has this connection's handle."""
    while not session.connection._runner.session.link._job:  # type: ignore[attr-defined]
        await asyncio.sleep(0)


async def test_silent_before_the_answer(silent: MariaDbServer) -> None:
    """The GIL is free while a server that was stopped owes an answer, and while a new connection waits for it."""
    async with of(silent).connected(connect_timeout_s=2.5) as session:
        running = asyncio.create_task(session.json(SNIPPETS.endless_select, within_s=2.5))
        await mysql.TestMySql().until_running(session)
        silent.pause()
        async with Heartbeat() as heart:
            await asyncio.gather(
                fails(TransientFailure, running), fails(Unreachable, session.backend.connection().open())
            )
        assert heart.longest_s < STILL_S
        assert heart.beats > 100


async def test_silent_in_the_middle_of_a_large_answer() -> None:
    """A thread waits for the rest; at the deadline it is let go at once."""
    answer = rows(TEXT, [[b"x" * 1000]] * 100)

    async def half(server: FakeMySql, statement: bytes) -> None:
        if statement == b"SELECT 1":
            server.write(answer[:-1])

    async with fake_mysql.fake_mysql(half) as port, database(f"u@tcp(127.0.0.1:{port})/").connected() as session:
        began = clock.monotonic()
        async with Heartbeat() as heart:
            await fails(TransientFailure, session.json("SELECT 1", within_s=2.0))
        assert clock.monotonic() - began <= 2.0 + 1.2
        assert heart.longest_s < STILL_S
        assert session.connection.broken


async def test_an_answer_in_small_pieces() -> None:
    """It is put together."""
    answer = rows(TEXT, [[b"x" * 100], [None], [b"y" * 3000]])

    async def pieces(server: FakeMySql, _: bytes) -> None:
        for at in range(0, len(answer), 50):
            server.write(answer[at : at + 50])
            await asyncio.sleep(0)

    async with fake_mysql.fake_mysql(pieces) as port, database(f"u@tcp(127.0.0.1:{port})/").connected() as session:
        for _ in range(20):
            assert await session.rows("SELECT 1") == [{"a": "x" * 100}, {"a": None}, {"a": "y" * 3000}]


async def test_silent_while_a_large_statement_goes_out(silent: MariaDbServer) -> None:
    """It waits on a thread. Nobody knows its outcome, but a part of a statement is not run."""
    async with of(silent).connected() as session:
        table = await session.table(SNIPPETS)
        silent.pause()
        insert = session.json(SNIPPETS.insert.format(table=table), "x" * (16 << 20), "1", within_s=2.0)
        running = asyncio.create_task(insert)
        await until_on_thread(session)
        async with Heartbeat() as heart:
            await fails(CallFailed, running, exactly=False)
        assert heart.longest_s < STILL_S
        assert session.connection.broken
        silent.resume()
        async with session.database.another(session.backend) as other:
            assert await other.rows(f"SELECT id FROM {table}") == []


async def test_a_slow_neighbour(silent: MariaDbServer, mariadb: MariaDbServer) -> None:
    """Whatever waits for one database, the queries of another have their usual times."""
    neighbour = of(silent).backend(connect_timeout_s=3.0)
    async with of(mariadb).connected() as session, of(silent).another(neighbour) as slow:
        query = "SELECT seq FROM seq_1_to_9000 WHERE ? = '1'"
        statements = ("SELECT 1 AS a", query.replace("?", "'1'"))
        silent.pause()
        waiting = [asyncio.ensure_future(neighbour.connection().open()) for _ in range(20)]
        waiting.append(asyncio.ensure_future(slow.connection.ping()))
        waiting.append(asyncio.ensure_future(slow.backend.check(slow.database.prepare("SELECT 1"))))
        slowest_s = 0.0
        for number in range(100):
            began = clock.monotonic()
            await session.rows(statements[number % 2])
            slowest_s = max(slowest_s, clock.monotonic() - began)
        assert slowest_s < STILL_S
        assert not waiting[0].done()
        assert all(isinstance(end, Unreachable) for end in await asyncio.gather(*waiting, return_exceptions=True))


async def test_the_rest_of_a_large_answer(mariadb: MariaDbServer) -> None:
    """It is not read with the GIL held, nor otherwise, when the rows up to the cap are there."""
    async with of(mariadb).connected(Limits(rows=100)) as session:
        async with Heartbeat() as heart:
            began = clock.monotonic()
            await fails(CallFailed, session.json(SNIPPETS.many_rows + " LIMIT 9999999"))
            assert clock.monotonic() - began < 1
        assert heart.longest_s < STILL_S
        assert session.connection.broken


async def test_closed_while_a_thread_reads() -> None:
    """The thread is let go, and the statement fails."""

    async def half(server: FakeMySql, statement: bytes) -> None:
        server.write(rows(TEXT, [[b"x"]])[:-1])
        waits.set()

    waits = asyncio.Event()
    async with fake_mysql.fake_mysql(half) as port:
        backend = database(f"u@tcp(127.0.0.1:{port})/").backend()
        async with database(f"u@tcp(127.0.0.1:{port})/").another(backend) as session:
            running = asyncio.create_task(session.change("DELETE FROM t"))
            await waits.wait()
            await until_on_thread(session)
            session.connection.close()
            await fails(OutcomeUnknown, running)
        await backend.close()


async def test_cancelled_tasks() -> None:
    """A task that is cancelled ends at once; its connection is not used again."""

    async def nothing(_: FakeMySql, __: bytes) -> None:
        waits.set()

    waits = asyncio.Event()
    async with fake_mysql.fake_mysql(nothing) as port, database(f"u@tcp(127.0.0.1:{port})/").connected() as session:
        running = asyncio.create_task(session.json("SELECT 1"))
        await waits.wait()
        running.cancel()
        began = clock.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert clock.monotonic() - began < STILL_S
        assert session.connection.broken


async def test_what_nobody_asked_for() -> None:
    """A server that says something to an idle connection: it is lost, and nobody reads that as an answer."""

    async def answer(server: FakeMySql, _: bytes) -> None:
        server.write(rows(TEXT, [[b"first"]]))
        await server.writer.drain()
        await asyncio.sleep(0.01)
        server.write(fake_mysql.error(4031, b"idle for too long"))

    async with fake_mysql.fake_mysql(answer) as port, database(f"u@tcp(127.0.0.1:{port})/").connected() as session:
        assert await session.rows("SELECT 1") == [{"a": "first"}]
        while not session.connection.is_lost():
            await asyncio.sleep(0)


async def test_connections_that_come_too_late(silent: MariaDbServer, mariadb: MariaDbServer) -> None:
    """One that was given up while it was made is closed when it is there."""
    backend = of(silent).backend(connect_timeout_s=0.4)
    silent.pause()
    for _ in range(3):
        await fails(Unreachable, backend.connection().open())
    silent.resume()
    async with of(silent).another(backend) as session:
        while await session.value("SELECT count(*) FROM information_schema.processlist") != 1:
            pass
    await backend.close()


async def test_rows_of_mysqls_own(mariadb: MariaDbServer) -> None:
    """What MariaDB does not send: JSON columns are embedded, texts that are no UTF-8 an error."""
    answers = {
        b"SELECT 1": rows([("j", fake_mysql.JSON, UTF8MB4)], [[b'{"b": [1, null]}'], [None]]),
        b"SELECT 2": rows(TEXT, [[b"\xff\xfe"]]),
        b"SELECT 3": rows(TEXT, [[b"a" * 60_000], [b"\xff\xfe"], [b"c"]]),
    }

    async def answer(server: FakeMySql, statement: bytes) -> None:
        server.write(answers[statement])

    async with fake_mysql.fake_mysql(answer) as port:
        fake = database(f"u@tcp(127.0.0.1:{port})/")
        async with fake.connected() as session:
            assert await session.json("SELECT 1") == b'[{"j":{"b": [1, null]}},{"j":null}]'
        for statement in ("SELECT 2", "SELECT 3"):
            async with fake.connected() as session:
                assert "not Unicode" in str(await fails(CallFailed, session.json(statement)))


async def test_readable_without_anything_to_read() -> None:
    """A false alarm of the loop: nothing is read, and the loop does not wait."""
    answers = asyncio.Event()

    async def late(server: FakeMySql, _: bytes) -> None:
        await answers.wait()
        server.write(rows(TEXT, [[b"late"]]))

    async with fake_mysql.fake_mysql(late) as port, database(f"u@tcp(127.0.0.1:{port})/").connected() as session:
        running = asyncio.create_task(session.rows("SELECT 1"))
        await asyncio.sleep(0)
        link = session.connection._runner.session.link  # type: ignore[attr-defined]
        async with Heartbeat() as heart:
            for _ in range(3):
                link._on_readable()
                await asyncio.sleep(0)
            answers.set()
            assert await running == [{"a": "late"}]
        assert heart.longest_s < STILL_S
