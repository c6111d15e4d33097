"""The pool on a real PostgreSQL server: the fault rows of databases, and transactions as clients see them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from atmo_farm import clock
from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.pool import Pool, PoolOptions
from atmo_farm.datasource.postgresql import PostgresBackend
from atmo_farm.datasource.statement import prepare
from atmo_farm.directive import sql
from atmo_farm.directive.model import Query
from tests.contract.asking import Asked, down, outcome, outcomes, ready
from tests.contract.fake_database import Client
from tests.contract.test_database_postgresql import database
from tests.servers.postgresql import PASSWORD, PostgresServer

QUERIES = {
    "quick": "SELECT ?::text AS a",
    "hold": "SELECT pg_sleep(90), ?::text AS a",
    "insert": "INSERT INTO pooled (name) VALUES (?) RETURNING id",
    "find": "SELECT count(*) AS n FROM pooled WHERE name = ?",
    "slow insert": "INSERT INTO pooled (name) SELECT ?::text FROM pg_sleep(90)",
}
OUT_OF_REACH = "TRANSIENT: database default is out of reach: "


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that tests end, stop and restart."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@asynccontextmanager
async def opened(server: PostgresServer, **options: object) -> AsyncIterator[Pool]:
    """A pool that is ready, and its table `pooled`."""
    server.resume()
    if not server.running:
        server.start()
    place = database(server.url("atmo", PASSWORD))
    async with place.connected() as session:
        await session.ddl("CREATE TABLE IF NOT EXISTS pooled (id bigserial PRIMARY KEY, name text)")
        await session.ddl("TRUNCATE pooled")
    statements = {
        name: prepare(Query(name, text, sql.query_type(text, "postgresql"), 1, "default"), "postgresql")
        for name, text in QUERIES.items()
    }
    backend = PostgresBackend(place.connection, Limits())
    pool = Pool("database default", backend, statements, PoolOptions(comment="app=tests", **options))  # type: ignore[arg-type]
    await pool.open()
    await ready(pool)
    yield pool
    await pool.close()


def found(answer: bytes | str) -> int:
    """The number in the answer to `find`."""
    assert isinstance(answer, bytes), answer
    count: int = msgspec.json.decode(answer)[0]["n"]
    return count


async def test_many_calls(server: PostgresServer) -> None:
    """Each has its own answer, whoever else asks."""
    async with opened(server) as pool:
        asked = [Client(pool, f"h{n % 4}").query("quick", f"{n}'") for n in range(1000)]
        assert await outcomes(asked) == [f'[{{"a":"{n}\'"}}]'.encode() for n in range(1000)]
        assert b"handler=orders" in await Client(pool, "orders").query("quick", "handler=orders")


async def test_transactions(server: PostgresServer) -> None:
    """COMMIT, ROLLBACK, a lost client, a deadline: what others see."""
    async with opened(server) as pool:
        other = Client(pool, "other")
        for number, end in enumerate(("commit", "rollback", "lost", "deadline"), 1):
            client = Client(pool)
            assert await outcome(client.begin(number, "insert", end, within_s=0.5)) != "timeout"
            assert found(await outcome(client.within(number, "find", end))) == 1
            assert found(await outcome(other.query("find", end))) == 0
            if end in ("commit", "rollback"):
                assert await outcome(getattr(client, end)(number)) == b""
            elif end == "lost":
                pool.forget(client)
            while await outcome(client.within(number, "find", end)) != (
                "TRANSIENT: the transaction is over: it was rolled back"
            ):
                await asyncio.sleep(0.01)
            assert found(await outcome(other.query("find", end))) == (end == "commit")


async def test_calls_that_are_given_up(server: PostgresServer, amount: Callable[[int, int], int]) -> None:
    """At any moment: no call gets another's answer, and what was never given up is answered."""
    chance = random.Random(3)
    async with opened(server) as pool:
        clients = [Client(pool, f"h{n}") for n in range(4)]
        for turn in range(amount(20, 500)):
            asked: list[tuple[str, Asked]] = []
            for n in range(50):
                text = f"{turn}/{n}"
                asked.append((text, chance.choice(clients).query("quick", text)))
                if chance.random() < 0.2:
                    chance.choice(clients).query("hold", within_s=chance.random() * 0.05).add_done_callback(_retrieve)
                if chance.random() < 0.5:
                    chance.choice(asked)[1].cancel()
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
            for text, one in asked:
                end = await outcome(one)
                assert end in (f'[{{"a":"{text}"}}]'.encode(), "cancelled"), end
                assert one.ends <= 1
        assert not pool.problem()


def _retrieve(asked: asyncio.Future[bytes]) -> None:
    if not asked.cancelled():
        asked.exception()


@pytest.mark.alone
@pytest.mark.fault(row="database-stopped")
async def test_stopped(
    server: PostgresServer, amount: Callable[[int, int], int], figure: Callable[[str, object], None]
) -> None:
    """A database that is stopped: errors within 100 ms, served again within 2 s after its return."""
    error_s = back_s = 0.0
    async with opened(server) as pool:
        client = Client(pool)
        for turn in range(amount(2, 30)):
            running = [client.query("hold"), client.query("slow insert")]
            waiting = [client.query("quick", str(n)) for n in range(20)]
            await outcomes(waiting)
            if turn % 2:
                await asyncio.to_thread(server.stop)
            else:
                server.kill()
            began = clock.monotonic()
            ends = [str(end) for end in await outcomes(running)]
            assert ends[0].startswith("TRANSIENT: ") and ends[1].startswith("UNKNOWN: "), ends
            for _ in range(3):
                asked = clock.monotonic()
                assert str(await outcome(client.query("quick"))).startswith("TRANSIENT: ")
                assert str(await outcome(client.begin(1, "insert"))).startswith("TRANSIENT: ")
                error_s = max(error_s, clock.monotonic() - asked)
            error_s = max(error_s, clock.monotonic() - began)
            assert "refused" in await down(pool)
            await asyncio.sleep(0.7)  # over more than one probe
            server.start()
            began = clock.monotonic()
            await ready(pool)
            assert await outcome(client.query("quick", "a")) == b'[{"a":"a"}]'
            back_s = max(back_s, clock.monotonic() - began)
    figure("error after, s", error_s)
    figure("served again after, s", back_s)
    assert error_s <= 0.1
    assert back_s <= 2.0


@pytest.mark.alone
@pytest.mark.fault(row="database-half-open")
async def test_half_open(server: PostgresServer, figure: Callable[[str, object], None]) -> None:
    """A database that does not answer any more: calls take their own deadline, after five of them none waits."""
    async with opened(server) as pool:
        client = Client(pool)
        assert await outcome(client.query("quick", "a")) == b'[{"a":"a"}]'
        server.pause()
        began = clock.monotonic()
        asked = [client.query("quick", str(n), within_s=0.5) for n in range(6)]
        assert set(await outcomes(asked)) <= {"timeout"}
        assert 0.45 <= clock.monotonic() - began <= 0.6
        reason = await down(pool)
        figure("noticed after, s", clock.monotonic() - began)
        assert reason
        began = clock.monotonic()
        assert str(await outcome(client.query("quick"))).startswith(OUT_OF_REACH)
        assert clock.monotonic() - began <= 0.1
        server.resume()
        began = clock.monotonic()
        await ready(pool)
        assert await outcome(client.query("quick", "a")) == b'[{"a":"a"}]'
        figure("served again after, s", clock.monotonic() - began)


@pytest.mark.alone
@pytest.mark.fault(row="database-slow")
async def test_slow(
    server: PostgresServer, amount: Callable[[int, int], int], figure: Callable[[str, object], None]
) -> None:
    """A database that is slow for one handler: its deadlines hold, ± 10 %, and neighbours' p99 doubles at most."""
    count = amount(500, 3000)
    enough = asyncio.Event()

    async def p99_ms(pool: Pool) -> float:
        client, took = Client(pool, "modest"), []
        for n in range(count):
            began = clock.monotonic()
            assert await outcome(client.query("quick", str(n))) == f'[{{"a":"{n}"}}]'.encode()
            took.append(clock.monotonic() - began)
        return sorted(took)[len(took) * 99 // 100] * 1000

    async def be_slow(pool: Pool, deadlines: list[float]) -> None:
        client = Client(pool, "greedy")
        while not enough.is_set():
            began = clock.monotonic()
            asked = [client.query("hold", within_s=0.4) for _ in range(20)]
            assert all(str(end).startswith(("timeout", "TRANSIENT: ")) for end in await outcomes(asked))
            deadlines.append(clock.monotonic() - began)

    alone: list[float] = []
    beside: list[float] = []
    deadlines: list[float] = []
    async with opened(server) as pool:
        for _ in range(amount(4, 10)):  # by turns: other work on this machine is there for both
            alone.append(await p99_ms(pool))
            enough.clear()
            slow = asyncio.create_task(be_slow(pool, deadlines))
            beside.append(await p99_ms(pool))
            enough.set()
            await slow
        assert not pool.problem()
    figure("p99 alone, ms", min(alone))
    figure("p99 beside, ms", min(beside))
    figure("deadline of 0.4 s, longest, s", max(deadlines))
    assert all(0.36 <= took <= 0.44 for took in deadlines), deadlines
    assert any(slow <= 2 * max(quick, 1.0) for quick, slow in zip(alone, beside, strict=True)), (alone, beside)
