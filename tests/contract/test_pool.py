"""The pool of a database's connections, on a database without a server: who runs when, and what ends how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from atmo_farm import clock
from atmo_farm.datasource.pool import Pool
from tests.contract.asking import outcome, outcomes, ready
from tests.contract.fake_database import Client, FakeBackend, pool_of


@asynccontextmanager
async def opened(**options: object) -> AsyncIterator[tuple[Pool, FakeBackend]]:
    """A pool that is ready."""
    backend = FakeBackend()
    pool = pool_of(backend, **options)
    await pool.open()
    await ready(pool)
    yield pool, backend
    await pool.close()
    assert backend.is_closed and not backend.open_connections
    assert len(asyncio.all_tasks()) == 1


async def test_answers() -> None:
    """Of queries that are there, with the variables that they take."""
    async with opened() as (pool, _):
        client = Client(pool)
        assert await outcome(client.query("quick", "a")) == b"a"
        assert await outcome(client.query("wrong")) == "FAILED: syntax error"
        assert await outcome(client.query("no such")) == "FAILED: query not found: no such"
        asked = client.ask(client.query("quick").call.op, "quick", [], 0, False)
        assert await outcome(asked) == "FAILED: expected 1 variables, got 0"
        assert await pool.check(pool.statements["quick"]) == "checked quick"


async def test_size() -> None:
    """No more connections than that, however many calls wait; all of them are served."""
    async with opened(size=3, quota=3) as (pool, backend):
        asked = [Client(pool, f"h{n % 5}").query("quick", str(n)) for n in range(100)]
        assert await outcomes(asked) == [str(n).encode() for n in range(100)]
        assert backend.most == 3 and len(backend.connections) == 3


async def test_a_call_costs_no_more_connections_than_it_must() -> None:
    """Calls one after the other run on one connection."""
    async with opened() as (pool, backend):
        for _ in range(20):
            await Client(pool).query("quick")
        assert len(backend.connections) == 1


async def test_fairness() -> None:
    """Handlers have their turns: one that floods the pool is behind one that asks once."""
    async with opened(size=1, quota=1) as (pool, backend):
        flood = [Client(pool, "greedy").query("quick", f"g{n}") for n in range(50)]
        modest = Client(pool, "modest").query("quick", "m")
        await modest
        assert sum(asked.done() for asked in flood) <= 3
        assert all(await outcomes(flood))
        order = [line.split()[2] for line in backend.log if "quick" in line]
        assert [name for name in order if name != "m"] == [f"g{n}" for n in range(50)]


async def test_quota() -> None:
    """A handler never has more calls running than its quota, and others have the rest."""
    async with opened(size=4, quota=3) as (pool, backend):
        greedy = [Client(pool, "greedy").query("hold", f"{n}") for n in range(10)]
        await backend.until(lambda: backend.running == 3)
        assert await outcome(Client(pool, "modest").query("quick", "m")) == b"m"
        assert backend.running == 3
        while backend.held:
            backend.let_go()
            await asyncio.sleep(0.001)
        await outcomes(greedy)
        assert backend.most == 4


async def test_quota_counts_transactions() -> None:
    """Queries and transactions of a handler together."""
    async with opened(size=6, quota=3) as (pool, backend):
        greedy = Client(pool, "greedy")
        begun = [greedy.begin(number, "hold") for number in range(1, 6)]
        queries = [greedy.query("hold") for _ in range(5)]
        await backend.until(lambda: backend.running == 3)
        assert await outcome(Client(pool, "modest").query("quick", "m")) == b"m"
        assert backend.most <= 4
        for asked in (*begun, *queries):
            asked.cancel()


async def test_idle_lanes_end() -> None:
    """After their time, all but one, also when they have become idle at the same moment."""
    async with opened(idle_timeout_s=0.1, quota=8) as (pool, backend):
        asked = [Client(pool).query("hold") for _ in range(8)]
        await backend.until(lambda: backend.running == 8)
        backend.let_go()
        await outcomes(asked)
        await backend.until(lambda: len(backend.open_connections) == 1)
        await asyncio.sleep(0.3)  # nothing may come of it
        assert len(backend.open_connections) == 1
        assert await outcome(Client(pool).query("quick", "a")) == b"a"


async def test_a_lost_idle_connection() -> None:
    """It is replaced before anybody suffers."""
    async with opened() as (pool, backend):
        await Client(pool).query("quick")
        backend.connections[0].lost = True
        assert await outcome(Client(pool).query("quick", "a")) == b"a"
        assert [connection.number for connection in backend.open_connections] == [2]


async def test_a_connection_that_breaks() -> None:
    """Its call fails as transient; the next one has a new connection."""
    async with opened(size=1, quota=1) as (pool, _):
        asked = [Client(pool).query("lost"), Client(pool).query("quick", "a")]
        assert await outcomes(asked) == ["TRANSIENT: the connection was lost", b"a"]
        assert not pool.problem()


async def test_bugs_end_with_their_call(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that raises what it must not fails that call alone."""
    async with opened(size=1, quota=1) as (pool, _):
        asked = [Client(pool).query("bug"), Client(pool).query("quick", "a")]
        assert await outcomes(asked) == ["TRANSIENT: the data source process could not run it", b"a"]
        assert "internal error in a lane" in caplog.text


async def test_cancel_of_a_running_call() -> None:
    """It is stopped, and its lane goes on."""
    async with opened(size=1, quota=1) as (pool, backend):
        running, waiting = Client(pool).query("hold"), Client(pool).query("quick", "a")
        await backend.until(lambda: backend.running == 1)
        running.cancel()
        assert await outcome(waiting) == b"a"
        assert backend.connections[0].cancelled == 1 and len(backend.connections) == 1


async def test_cancel_of_a_waiting_call() -> None:
    """It never runs."""
    async with opened(size=1, quota=1) as (pool, backend):
        running = Client(pool).query("hold")
        waiting = [Client(pool).query("quick", str(n)) for n in range(10)]
        await backend.until(lambda: backend.running == 1)
        for asked in waiting[:9]:
            asked.cancel()
        assert backend.connections[0].cancelled == 0
        backend.let_go()
        assert await outcome(waiting[9]) == b"9"
        assert await outcome(running) == b"x"
        assert [line for line in backend.log if "quick" in line] == ["1 quick 9"]


async def test_given_up_calls_are_forgotten() -> None:
    """However many calls give up waiting, the queue holds only those that wait."""
    async with opened(size=1, quota=1) as (pool, backend):
        running, client = Client(pool).query("hold"), Client(pool)
        await backend.until(lambda: backend.running == 1)
        last = client.query("quick", "last")
        for n in range(5000):
            client.query("quick", str(n)).cancel()
        assert pool.waiting <= 200
        backend.let_go()
        assert await outcome(last) == b"last"
        await running


@pytest.mark.alone
async def test_deadlines() -> None:
    """A statement is told its call's deadline, or an earlier one that the pool has for statements."""
    async with opened(statement_timeout_s=0.2) as (pool, _):
        began = clock.monotonic()
        asked = [Client(pool).query("hold", within_s=0.1), Client(pool).query("hold", within_s=30)]
        assert (await outcomes(asked))[1] == "TRANSIENT: stopped at its deadline"
        assert 0.19 <= clock.monotonic() - began <= 0.4


async def test_slow_queries_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """With handler and name, and without variables."""
    async with opened(slow_query_s=0.05) as (pool, backend):
        asked = Client(pool, "orders").query("hold", "c4nary")
        await asyncio.sleep(0.1)  # this is what makes it slow
        backend.let_go()
        await asked
        [line] = [record for record in caplog.records if "slow query" in record.message]
        assert "orders" in str(vars(line)) and "hold" in str(vars(line)) and "c4nary" not in str(vars(line))


async def test_close() -> None:
    """What runs and what waits fails, what comes afterwards too, and nothing is left."""
    async with opened(size=1, quota=1) as (pool, backend):
        asked = [Client(pool).query("hold"), Client(pool).query("quick"), Client(pool).begin(1)]
        await backend.until(lambda: backend.running == 1)
        await pool.close()
        ends = await outcomes(asked)
        assert all(str(end).startswith("TRANSIENT: ") for end in ends), ends
        assert str(await outcome(Client(pool).query("quick"))).startswith("TRANSIENT: ")
