"""Servers that end, stop answering or refuse: a part of the suite of every backend that has a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure, Unreachable
from tests.contract.kit import Database, Session, Suite, fails, harmless
from tests.servers.process import ServerProcess, free_port


class OutageTests(Suite):
    """A test may leave the server down or stopped: the `database` fixture brings it back."""

    def wrong_connections(self, database: Database) -> Mapping[str, str]:
        """Connection strings that do not work, by what the reason says; `database.canary` is in each."""
        raise NotImplementedError("a backend's own class gives them")

    async def test_connections_that_do_not_work(self, database: Database) -> None:
        """One clear reason, without a secret."""
        for words, text in self.wrong_connections(database).items():
            backend = database.backend(connection_string=text)
            error = await fails(Unreachable, backend.connection().open())
            harmless(error, database.canary)
            assert words in str(error)
            statement = database.prepare("SELECT 1")
            harmless(await fails(Unreachable, backend.check(statement)), database.canary)
            await backend.close()

    @pytest.mark.alone
    async def test_a_server_that_is_down(self, database: Database) -> None:
        """It is told at once, and an idle connection is known to be lost."""
        async with database.connected() as session:
            _server(database).kill()
            await _until_lost(session)
            began = clock.monotonic()
            error = await fails(Unreachable, session.backend.connection().open())
            assert clock.monotonic() - began <= 0.1
            harmless(error, database.canary)
            assert "refused" in str(error)

    async def test_a_server_that_was_stopped_in_good_order(self, database: Database) -> None:
        """An idle connection is known to be lost; after the return a new one works."""
        async with database.connected() as session:
            server = _server(database)
            await asyncio.to_thread(server.stop)
            await _until_lost(session)
            server.start()
            async with database.another(session.backend) as other:
                assert await other.rows("SELECT 1 AS a") == [{"a": 1}]

    async def test_a_connection_that_was_lost_and_is_used(self, database: Database) -> None:
        """A select has done nothing; a write may have."""
        async with database.connected() as session, database.another(session.backend) as other:
            table = await session.table(self.snippets)
            _server(database).restart()
            await fails(TransientFailure, session.rows("SELECT 1"))
            await fails(OutcomeUnknown, other.change(self.snippets.insert.format(table=table), "a", "1"))
            assert session.connection.broken and other.connection.broken

    @pytest.mark.alone
    async def test_killed_under_a_select(self, database: Database) -> None:
        """A transient failure at once."""
        async with database.connected() as session:
            running = asyncio.create_task(session.json(self.snippets.endless_select))
            await self.until_running(session)
            _server(database).kill()
            began = clock.monotonic()
            harmless(await fails(TransientFailure, running), database.canary)
            assert clock.monotonic() - began <= 0.1
            assert session.connection.broken

    async def test_killed_under_an_insert(self, database: Database) -> None:
        """Nobody knows its outcome."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            running = asyncio.create_task(session.json(self.snippets.endless_insert.format(table=table)))
            await self.until_running(session)
            _server(database).kill()
            await fails(OutcomeUnknown, running)
            assert session.connection.broken

    async def test_killed_in_a_transaction(self, database: Database) -> None:
        """Nothing of it was done: even an insert fails as transient."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            await session.connection.begin()
            await session.fill(table, self.snippets, "a")
            running = asyncio.create_task(session.json(self.snippets.endless_insert.format(table=table)))
            await self.until_running(session)
            _server(database).kill()
            await fails(TransientFailure, running)
            assert session.connection.broken

    async def test_half_open_under_a_select(self, database: Database) -> None:
        """A server that does not answer any more: given up at most 1.2 s after the deadline."""
        await self._half_open(database, self.snippets.endless_select, TransientFailure)

    async def test_half_open_under_an_insert(self, database: Database) -> None:
        """The same, and nobody knows the outcome."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
        await self._half_open(database, self.snippets.endless_insert.format(table=table), OutcomeUnknown)

    async def _half_open(self, database: Database, query: str, kind: type[CallFailed]) -> None:
        async with database.connected() as session:
            running = asyncio.create_task(session.json(query, within_s=1.5))
            began = clock.monotonic()
            await self.until_running(session)
            _server(database).pause()
            await fails(kind, running)
            assert clock.monotonic() - began <= 1.5 + 1.2
            assert session.connection.broken

    @pytest.mark.alone
    async def test_half_open_when_connecting(self, database: Database) -> None:
        """Given up at the connect timeout."""
        backend = database.backend(connect_timeout_s=0.5)
        _server(database).pause()
        began = clock.monotonic()
        harmless(await fails(Unreachable, backend.connection().open()), database.canary)
        assert 0.45 <= clock.monotonic() - began <= 0.8
        await backend.close()

    async def test_a_commit_without_an_answer(self, database: Database) -> None:
        """Nobody knows whether it was done."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            await session.connection.begin()
            await session.fill(table, self.snippets, "a")
            _server(database).pause()
            began = clock.monotonic()
            await fails(OutcomeUnknown, session.connection.commit(began + 0.3))
            assert clock.monotonic() - began <= 0.3 + 1.2
            assert session.connection.broken

    async def test_a_rollback_without_an_answer(self, database: Database) -> None:
        """The connection is not used again."""
        async with database.connected() as session:
            await session.connection.begin()
            await session.rows("SELECT 1")
            _server(database).pause()
            began = clock.monotonic()
            await session.connection.rollback()
            assert clock.monotonic() - began <= 2.5
            assert session.connection.broken

    async def test_a_ping_without_an_answer(self, database: Database) -> None:
        """Unreachable, soon."""
        async with database.connected() as session:
            _server(database).pause()
            began = clock.monotonic()
            harmless(await fails(Unreachable, session.connection.ping()), database.canary)
            assert clock.monotonic() - began <= 2.5

    async def test_nobody_listens(self, database: Database) -> None:
        """No secret in what is said about it, from any side."""
        text = str(database.connection.connection_string).replace(str(_server(database).port), str(free_port()))
        backend = database.backend(connection_string=text)
        harmless(await fails(Unreachable, backend.connection().open()), database.canary)
        await backend.close()


def _server(database: Database) -> ServerProcess:
    assert database.server is not None
    return database.server


async def _until_lost(session: Session) -> None:
    while not session.connection.is_lost():
        await asyncio.sleep(0)
