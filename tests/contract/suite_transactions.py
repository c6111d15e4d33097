"""Transactions on one connection: a part of every backend's suite."""

from __future__ import annotations

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed, TransientFailure
from tests.contract.kit import PATIENCE_S, Database, Session, Suite, fails


class TransactionTests(Suite):
    async def test_commit(self, database: Database) -> None:
        """All of it is there for others afterwards, nothing of it before."""
        async with database.connected() as session, database.another(session.backend) as other:
            table = await session.table(self.snippets)
            await session.connection.begin()
            await session.fill(table, self.snippets, "a", "b")
            assert await _count(session, table) == 2
            assert await _count(other, table) == 0
            await session.connection.commit(clock.monotonic() + PATIENCE_S)
            assert await _count(other, table) == 2

    async def test_rollback(self, database: Database) -> None:
        """Nothing of it is there, and the connection takes the next statement, or transaction."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            for _ in range(2):
                await session.connection.begin()
                await session.fill(table, self.snippets, "a")
                assert len(await session.rows(f"SELECT id FROM {table}")) == 1
                await session.connection.rollback()
                assert not session.connection.broken
                assert await _count(session, table) == 0

    async def test_many_selects(self, database: Database) -> None:
        """In one transaction, and it can still change what it has read."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            await session.fill(table, self.snippets, "a", "b")
            await session.connection.begin()
            for _ in range(3):
                assert len(await session.rows(f"SELECT * FROM {table}")) == 2
            assert (await session.change(f"DELETE FROM {table} WHERE name = ?", "a"))[1] == 1
            await session.connection.commit(clock.monotonic() + PATIENCE_S)
            assert await _count(session, table) == 1

    async def test_rollback_after_an_error(self, database: Database) -> None:
        """An error in a transaction leaves a connection that can be rolled back and used."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            await session.connection.begin()
            await session.fill(table, self.snippets, "a")
            await fails(CallFailed, session.rows("SELECT * FROM no_such_table"))
            await session.connection.rollback()
            assert not session.connection.broken
            assert await _count(session, table) == 0

    async def test_closed_before_the_commit(self, database: Database) -> None:
        """What a closed connection had not committed is rolled back."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            async with database.another(session.backend) as other:
                await other.connection.begin()
                await other.fill(table, self.snippets, "a")
            assert await _count(session, table) == 0
            await session.fill(table, self.snippets, "b")  # it holds no lock any more

    async def test_commit_after_the_deadline(self, database: Database) -> None:
        """It is not even tried."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            await session.connection.begin()
            await session.fill(table, self.snippets, "a")
            await fails(TransientFailure, session.connection.commit(clock.monotonic() - 0.001))
            await session.connection.rollback()
            assert await _count(session, table) == 0


async def _count(session: Session, table: str) -> object:
    return await session.value(f"SELECT count(*) FROM {table}")
