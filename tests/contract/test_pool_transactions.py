"""Transactions on the pool, on a database without a server: one connection each, and an end in any case."""

from __future__ import annotations

import asyncio

import pytest

from atmo_farm import clock
from tests.contract.asking import outcome, outcomes
from tests.contract.fake_database import Client
from tests.contract.test_pool import opened

OVER = "TRANSIENT: the transaction is over: it was rolled back"


async def test_commit() -> None:
    """All of its statements run on one connection, and no others do meanwhile."""
    async with opened(size=4, quota=4) as (pool, backend):
        client, other = Client(pool), Client(pool, "other")
        assert await outcome(client.begin(1, variable="a")) == b"a"
        assert await outcomes([other.query("quick", "o") for _ in range(5)]) == [b"o"] * 5
        assert await outcomes([client.within(1, variable="b"), client.within(1, "wrong"), client.commit(1)]) == [
            b"b",
            "FAILED: syntax error",
            b"",
        ]
        assert await outcome(client.within(1)) == OVER
        assert await outcome(client.commit(1)) == OVER
        pinned = backend.log[backend.log.index("1 BEGIN") : backend.log.index("1 COMMIT") + 1]
        assert [line for line in pinned if line.startswith("1 ")] == [
            "1 BEGIN", "1 quick a", "1 quick b", "1 wrong x", "1 COMMIT",
        ]  # fmt: skip
        assert "1 ROLLBACK" not in backend.log


async def test_rollback() -> None:
    """It is done when it is answered; the connection is another's then. Once more does no harm."""
    async with opened(size=1, quota=1) as (pool, backend):
        client = Client(pool)
        await client.begin(1)
        assert await outcome(client.rollback(1)) == b""
        assert backend.log[-1] == "1 ROLLBACK"
        assert await outcome(client.query("quick", "a")) == b"a"
        assert await outcome(client.rollback(1)) == b""


async def test_transactions_of_several_clients() -> None:
    """The number is the client's own."""
    async with opened(size=4, quota=4) as (pool, backend):
        one, two = Client(pool), Client(pool)
        await outcomes([one.begin(7), two.begin(7)])
        assert await outcomes([one.rollback(7), two.within(7, variable="b"), two.commit(7)]) == [b"", b"b", b""]
        assert [line.split()[1] for line in backend.log if "MIT" in line or "BACK" in line] == ["ROLLBACK", "COMMIT"]


async def test_the_same_number_again() -> None:
    """A transaction cannot begin twice; after its end its number is free."""
    async with opened(size=4, quota=4) as (pool, _):
        client = Client(pool)
        first, second = client.begin(1, variable="a"), client.begin(1, variable="b")
        assert await outcomes([first, second]) == [b"a", "FAILED: the transaction has begun already"]
        assert await outcome(client.commit(1)) == b""
        assert await outcome(client.begin(1, variable="c")) == b"c"
        assert await outcome(client.commit(1)) == b""


async def test_half_of_the_pool() -> None:
    """No more lanes are pinned, even when all begin while their connections are being made; queries go on."""
    async with opened(size=8, quota=8) as (pool, backend):
        backend.slow_to_connect = True
        clients = [Client(pool, f"h{n}") for n in range(8)]
        begun = [client.begin(1) for client in clients]
        await asyncio.sleep(0)
        backend.connecting.set()
        await backend.until(lambda: sum("BEGIN" in line for line in backend.log) == 4)
        assert await outcomes([clients[n].query("quick", str(n)) for n in range(8)]) == [
            str(n).encode() for n in range(8)
        ]
        assert sum("BEGIN" in line for line in backend.log) == 4
        for client, asked in zip(clients, begun, strict=True):
            await asked
            assert await outcome(client.commit(1)) == b""


async def test_the_client_is_lost() -> None:
    """What it had begun is rolled back at once, what it had queued never begins, and the lane is free."""
    async with opened(size=2, quota=2) as (pool, backend):
        client = Client(pool)
        await client.begin(1)
        waiting = client.begin(2)
        waiting.cancel()
        pool.forget(client)
        await backend.until(lambda: backend.log[-1] == "1 ROLLBACK")
        assert await outcome(Client(pool).begin(1, variable="a")) == b"a"
        assert await outcome(client.within(1)) == OVER
        assert sum("BEGIN" in line for line in backend.log) == 2


async def test_the_client_is_lost_while_a_statement_runs() -> None:
    """The statement is stopped first."""
    async with opened(size=1, quota=1) as (pool, backend):
        client = Client(pool)
        await client.begin(1)
        running = client.within(1, "hold")
        await backend.until(lambda: backend.running == 1)
        running.cancel()
        pool.forget(client)
        await backend.until(lambda: backend.log[-1] == "1 ROLLBACK")
        assert await outcome(Client(pool).query("quick", "a")) == b"a"


async def test_the_client_is_lost_during_its_commit() -> None:
    """That ends as it ends; the lane's next transaction is not harmed."""
    async with opened(size=1, quota=1) as (pool, backend):
        client, other = Client(pool), Client(pool)
        await client.begin(1)
        committing = client.commit(1)
        await backend.until(lambda: backend.log[-1] == "1 COMMIT")
        committing.cancel()
        pool.forget(client)
        assert await outcome(other.begin(1, variable="a")) == b"a"
        assert await outcome(other.within(1, variable="b")) == b"b"
        assert await outcome(other.commit(1)) == b""


@pytest.mark.alone
async def test_the_deadline() -> None:
    """Its first query's: nobody has gone on, so it is rolled back."""
    async with opened(size=2, quota=2) as (pool, backend):
        client = Client(pool)
        began = clock.monotonic()
        assert await outcome(client.begin(1, within_s=0.2)) == b"x"
        await backend.until(lambda: backend.log[-1] == "1 ROLLBACK")
        assert 0.19 <= clock.monotonic() - began <= 0.3
        assert await outcome(client.commit(1)) == OVER


async def test_begin_fails() -> None:
    """The call is told at once, and the pool goes on."""
    async with opened(size=1, quota=1) as (pool, backend):
        client = Client(pool)
        backend.begin_fails = True
        assert await outcome(client.begin(1)) == "TRANSIENT: it was lost"
        backend.begin_fails = False
        assert await outcome(client.within(1)) == OVER
        assert await outcome(client.begin(2, variable="a")) == b"a"
        await client.commit(2)


async def test_given_up_before_it_has_begun() -> None:
    """Nothing is begun: neither while it waits, nor while its connection is made."""
    async with opened(size=1, quota=1) as (pool, backend):
        backend.connections[0].lost = backend.slow_to_connect = True
        client = Client(pool)
        begun, following = client.begin(1), client.query("quick", "a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        begun.cancel()
        backend.connecting.set()
        assert await outcome(following) == b"a"
        assert not any("BEGIN" in line for line in backend.log)


async def test_the_connection_is_lost_within() -> None:
    """Statements that wait and come later are told that it is over."""
    async with opened(size=1, quota=1) as (pool, _):
        client = Client(pool)
        await client.begin(1)
        asked = [client.within(1, "lost"), client.within(1), client.commit(1)]
        assert await outcomes(asked) == ["TRANSIENT: the connection was lost", OVER, OVER]
        assert await outcome(client.within(1)) == OVER
        assert await outcome(client.query("quick", "a")) == b"a"


async def test_a_commit_without_an_answer() -> None:
    """Nobody knows."""
    async with opened(size=1, quota=1) as (pool, backend):
        client = Client(pool)
        await client.begin(1)
        backend.commit_is_unknown = True
        assert await outcome(client.commit(1)) == "UNKNOWN: no answer to COMMIT"
        assert "1 ROLLBACK" not in backend.log
        assert await outcome(client.query("quick", "a")) == b"a"


async def test_a_bug_within() -> None:
    """The call fails, the transaction is over, the pool goes on."""
    async with opened(size=1, quota=1) as (pool, _):
        client = Client(pool)
        await client.begin(1)
        assert await outcome(client.within(1, "bug")) == "TRANSIENT: the data source process could not run it"
        assert await outcome(client.within(1)) == OVER
        assert await outcome(client.query("quick", "a")) == b"a"
