"""How many calls of one handler run, by whether the process keeps up; on a database without a server."""

from __future__ import annotations

import asyncio

import pytest

from atmo_farm import clock
from atmo_farm.datasource import pace
from tests.contract.asking import outcome, outcomes
from tests.contract.fake_database import Client
from tests.contract.test_pool import opened


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LOOK_S", 0.01)
    monkeypatch.setattr(pace, "GROW_AFTER", 2)
    monkeypatch.setattr(pace, "ALONE_AFTER", 50)


async def _compute(seconds: float) -> None:
    """Leave the process no time to spare, as a flood of calls does; the loop goes on."""
    end = clock.monotonic() + seconds
    while clock.monotonic() < end:
        await asyncio.sleep(0)


async def test_a_share_shrinks_while_the_process_does_not_keep_up_and_grows_again() -> None:
    """Down to two connections; what others ask is served all the time, and nobody's call is lost."""
    async with opened(size=8, quota=6) as (pool, backend):
        assert await outcome(Client(pool, "modest").query("quick", "m")) == b"m"
        greedy = [Client(pool, "greedy").query("hold", str(n)) for n in range(20)]
        await backend.until(lambda: backend.running == 6)
        await _compute(0.3)
        backend.let_go()
        await _compute(0.05)
        assert backend.running == pace.LEAST
        assert await outcome(Client(pool, "modest").query("quick", "m")) == b"m"
        await backend.until(lambda: backend.running == 6)
        while backend.held:
            backend.let_go()
            await asyncio.sleep(0.001)
        assert len(await outcomes(greedy)) == 20


async def test_a_handler_that_is_alone_has_its_whole_share() -> None:
    """Until another one asks, and again some time after that."""
    async with opened(size=8, quota=6) as (pool, backend):
        greedy = [Client(pool, "greedy").query("hold", str(n)) for n in range(40)]
        await _compute(0.3)
        backend.let_go()
        await _compute(0.05)
        assert backend.running == 6
        assert await outcome(Client(pool, "modest").query("quick", "m")) == b"m"
        backend.let_go()
        await _compute(0.05)
        assert backend.running == pace.LEAST
        Client(pool, "greedy").query("quick", "g")
        while backend.running == pace.LEAST:
            await asyncio.sleep(0)
        assert backend.running == 6
        while backend.held:
            backend.let_go()
            await asyncio.sleep(0.001)
        assert len(await outcomes(greedy)) == 40


async def test_a_process_with_time_to_spare_uses_the_whole_share() -> None:
    """However long its calls wait for a slow database."""
    async with opened(size=8, quota=6) as (pool, backend):
        greedy = [Client(pool, "greedy").query("hold", str(n)) for n in range(20)]
        await asyncio.sleep(0.2)
        for _ in range(6):
            backend.let_go(1)
            await asyncio.sleep(0.02)
        await backend.until(lambda: backend.running == 6)
        while backend.held:
            backend.let_go()
            await asyncio.sleep(0.001)
        await outcomes(greedy)


async def test_a_kernel_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share stays as it is."""
    monkeypatch.setattr(pace, "COUNTS", "/nowhere")
    async with opened(size=8, quota=6) as (pool, backend):
        greedy = [Client(pool, "greedy").query("hold", str(n)) for n in range(8)]
        await _compute(0.1)
        assert backend.running == 6
        while backend.held:
            backend.let_go()
            await asyncio.sleep(0.001)
        await outcomes(greedy)
