"""What PostgreSQL's errors become: by SQLSTATE, in its words, without values."""

from __future__ import annotations

import asyncio

import pytest

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed, TransientFailure
from tests.contract.kit import PATIENCE_S, VALUE_CANARY, Database, fails
from tests.contract.test_database_postgresql import SNIPPETS, database
from tests.servers.postgresql import PASSWORD, PostgresServer


@pytest.fixture
def place(postgresql: PostgresServer) -> Database:
    return database(postgresql.url("atmo", PASSWORD))


async def test_commit_of_a_transaction_that_has_failed(place: Database) -> None:
    """Its COMMIT is a rollback: an error. So is a constraint that is checked only then."""
    async with place.connected() as session:
        table = await session.table(SNIPPETS)
        await session.ddl(f"ALTER TABLE {table} ADD CONSTRAINT c_{table} UNIQUE (name) DEFERRABLE INITIALLY DEFERRED")
        await session.connection.begin()
        await session.fill(table, SNIPPETS, "a")
        await fails(CallFailed, session.rows("SELECT 1/0"))
        refused = await fails(CallFailed, session.rows("SELECT 1"))
        assert "aborted" in str(refused)
        await fails(CallFailed, session.connection.commit(clock.monotonic() + PATIENCE_S))
        await session.connection.begin()
        await session.fill(table, SNIPPETS, VALUE_CANARY, VALUE_CANARY)
        error = await fails(CallFailed, session.connection.commit(clock.monotonic() + PATIENCE_S))
        assert f"c_{table}" in str(error)
        assert await session.value(f"SELECT count(*) FROM {table}") == 0
        assert not session.connection.broken


async def test_conflicts(place: Database) -> None:
    """Deadlocks, locks that are not available, and serialization failures may go better the next time."""
    async with place.connected() as one, place.another(one.backend) as two:
        table = await one.table(SNIPPETS)
        await one.fill(table, SNIPPETS, "a", "b")
        update = f"UPDATE {table} SET amount = 0 WHERE name = ?"
        for session, name in ((one, "a"), (two, "b")):
            await session.connection.begin()
            await session.change(update, name)
        await fails(TransientFailure, two.rows(f"SELECT * FROM {table} FOR UPDATE NOWAIT"))
        await two.connection.rollback()
        await two.connection.begin()
        await two.change(update, "b")
        ends = await asyncio.gather(one.change(update, "b"), two.change(update, "a"), return_exceptions=True)
        assert sorted(type(end).__name__ for end in ends) == ["TransientFailure", "tuple"]
        for session in (one, two):
            await session.connection.rollback()
            await session.connection.begin()
            await session.ddl("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            await session.value(f"SELECT sum(amount) FROM {table}")
        for session in (one, two):
            await session.change(SNIPPETS.insert.format(table=table), "c", "1")
        await one.connection.commit(clock.monotonic() + PATIENCE_S)
        await fails(TransientFailure, two.connection.commit(clock.monotonic() + PATIENCE_S))


async def test_a_server_that_only_reads(postgresql: PostgresServer) -> None:
    """A write may go better on another connection: this server has become a standby."""
    place = database(postgresql.url("atmo", PASSWORD, query="default_transaction_read_only=on"))
    async with place.connected() as session:
        assert await session.value("SELECT 1") == 1
        await fails(TransientFailure, session.ddl("CREATE TABLE readonly (a int)"))
        assert session.connection.broken


async def test_values_in_the_server_s_words(place: Database) -> None:
    """Its complaints quote values; ours say which."""
    told = {
        "SELECT ?::int": 'invalid input syntax for type integer: "$1"',
        "SELECT ?::date": 'invalid input syntax for type date: "$1"',
        "SELECT ?::jsonb": "invalid input syntax for type json",
        "SELECT 1 AS a, ?::text::mood2": 'type "mood2" does not exist',
        "SELECT upper(?)::boolean": 'invalid input syntax for type boolean: "…"',
    }
    async with place.connected() as session:
        for query, words in told.items():
            error = await fails(CallFailed, session.rows(query, VALUE_CANARY))
            assert VALUE_CANARY.upper() not in str(error)
            assert str(error) == words
        short = await fails(CallFailed, session.rows("SELECT ?::int", "no"))
        assert str(short) == 'invalid input syntax for type integer: "$1"'
