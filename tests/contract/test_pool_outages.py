"""The pool when its database is down, silent, slow or full, on a database without a server."""

from __future__ import annotations

import asyncio
import logging

import pytest

from atmo_farm import clock
from tests.contract.asking import down, outcome, outcomes, ready
from tests.contract.fake_database import Client, FakeBackend, pool_of
from tests.contract.test_pool import opened


@pytest.mark.alone
async def test_down_and_up(caplog: pytest.LogCaptureFixture) -> None:
    """While it is down calls fail at once, with the reason; it is back soon after its return. One line for each."""
    caplog.set_level(logging.INFO)
    async with opened(size=2, quota=2) as (pool, backend):
        client = Client(pool)
        await client.query("quick")
        running = [client.query("hold"), client.query("hold")]
        waiting = [client.query("quick") for _ in range(10)]
        await backend.until(lambda: backend.running == 2)
        backend.stop()
        began = clock.monotonic()
        backend.connections[0].broken = True
        running[0].cancel()
        text = "TRANSIENT: database default is out of reach: Connection refused"
        assert set(await outcomes(waiting)) == {text}
        assert clock.monotonic() - began <= 0.1
        began = clock.monotonic()
        assert await outcome(client.query("quick")) == text
        assert await outcome(client.begin(1)) == text
        assert clock.monotonic() - began <= 0.02
        assert await down(pool) == "Connection refused"
        await asyncio.sleep(1.0)  # an outage that lasts over several probes
        backend.down = ""
        began = clock.monotonic()
        await ready(pool)
        assert clock.monotonic() - began <= 2.0
        assert await outcome(client.query("quick", "a")) == b"a"
        running[1].cancel()
    told = [record.getMessage() for record in caplog.records if "database default" in record.getMessage()]
    assert [line.split(" is ")[1].split()[0] for line in told] == ["out", "back"]


async def test_down_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """The reason is the server's, and it is logged once, as is every other reason; a start that works logs nothing."""
    caplog.set_level(logging.INFO)
    backend = FakeBackend()
    backend.down = "Connection refused"
    pool = pool_of(backend)
    await pool.open()
    assert pool.problem() == "not connected yet"
    assert await down(pool) == "Connection refused"
    backend.down = "password authentication failed"
    while pool.problem() != backend.down:
        await asyncio.sleep(0.01)
    backend.down = ""
    await ready(pool)
    await pool.close()
    told = [str(vars(record)) for record in caplog.records]
    assert len(told) == 3
    assert "refused" in told[0] and "authentication" in told[1] and "is back" in told[2]
    caplog.clear()
    async with opened():
        pass
    assert caplog.records == []


@pytest.mark.alone
async def test_no_answers_open_it() -> None:
    """Five calls in a row that end without an answer; the calls of then fail at once."""
    async with opened(size=8, quota=8) as (pool, backend):
        client = Client(pool)
        backend.slow_to_connect = True
        for n in range(5):
            backend.slow_to_connect = False
            assert not pool.problem()
            asked = client.query("deaf", within_s=0.05)
            assert await outcome(asked) in ("timeout", "TRANSIENT: no answer")
            backend.slow_to_connect = n == 4
        await down(pool)
        began = clock.monotonic()
        assert await outcome(client.query("quick")) == (
            "TRANSIENT: database default is out of reach: it does not answer"
        )
        assert clock.monotonic() - began <= 0.1
        backend.connecting.set()
        await ready(pool)
        assert await outcome(client.query("quick", "a")) == b"a"


async def test_slow_statements_do_not_open_it() -> None:
    """A server that stops them has answered, at the deadline or before it."""
    async with opened(size=8, quota=8) as (pool, _):
        client = Client(pool)
        for _ in range(3):
            assert set(await outcomes([client.query("hold", within_s=0.02) for _ in range(8)])) <= {
                "timeout",
                "TRANSIENT: stopped at its deadline",
            }
        assert await outcome(client.query("quick", "a")) == b"a"
        assert not pool.problem()


async def test_old_connections_end_with_an_outage() -> None:
    """After it nobody uses an idle connection from before it."""
    async with opened(size=4, quota=4) as (pool, backend):
        client = Client(pool)
        asked = [client.query("hold") for _ in range(4)]
        await backend.until(lambda: backend.running == 4)
        backend.let_go()
        await outcomes(asked)
        pool.breaker.trip("it does not answer")
        await ready(pool)
        assert [connection.number for connection in backend.open_connections] == [5]


async def test_a_server_with_less_room_than_the_pool() -> None:
    """The connections that it takes serve all calls; that there are no more of them is no outage."""
    async with opened(size=8, quota=8) as (pool, backend):
        backend.room = 2
        for _ in range(3):
            asked = [Client(pool, f"h{n % 3}").query("quick", str(n)) for n in range(50)]
            assert await outcomes(asked) == [str(n).encode() for n in range(50)]
            begun = [Client(pool).begin(1) for _ in range(4)]
            await asyncio.sleep(0)
            for asked_ in begun:
                asked_.cancel()
        assert not pool.problem()
        assert len(backend.connections) <= 20


async def test_ping() -> None:
    """It connects, or says why not."""
    async with opened() as (pool, backend):
        await pool.ping()
        backend.stop()
        with pytest.raises(Exception, match="Connection refused"):
            await pool.ping()


async def test_an_answer_during_an_outage() -> None:
    """It is over: a server that takes no new connections, and serves those that it has, is there."""
    async with opened(size=4, quota=4) as (pool, backend):
        client = Client(pool)
        running = client.query("hold")
        await backend.until(lambda: backend.running == 1)
        backend.down = "the database system is shutting down"
        assert "shutting down" in str(await outcome(client.query("quick")))
        assert "shutting down" in pool.problem()
        backend.let_go()
        assert await outcome(running) == b"x"
        assert not pool.problem()
        assert await outcomes([client.query("quick", str(n)) for n in range(5)]) == [b"0", b"1", b"2", b"3", b"4"]
