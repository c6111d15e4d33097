"""Threads for what may block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from atmo_farm.datasource.threads import Threads
from tests.streams import run


def names(prefix: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(prefix)]


def test_results_and_errors() -> None:
    """A job's result, or what it raised."""

    async def body() -> None:
        threads = Threads(2, "results")
        assert await threads.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)  # type: ignore[misc]
        threads.close()

    run(body())


def test_started_when_needed() -> None:
    """One job after the other needs one thread; many at once have as many as there may be, and take turns on them."""

    async def body() -> None:
        threads = Threads(3, "needed")
        for _ in range(5):
            await threads.run(int)
        assert len(names("needed")) == 1
        gate = threading.Event()
        jobs = [threads.run(gate.wait) for _ in range(10)]
        assert len(names("needed")) == 3
        gate.set()
        assert await asyncio.gather(*jobs) == [True] * 10
        threads.close()

    run(body())


def test_they_end() -> None:
    """After `close`, when what they were given is done."""

    async def body() -> None:
        threads = Threads(2, "ending")
        gate, done = threading.Event(), threading.Event()
        job = threads.run(gate.wait)
        threads.run(done.set)
        threads.close()
        gate.set()
        await job
        assert done.wait(10)
        for thread in threading.enumerate():
            if thread.name.startswith("ending"):
                thread.join(10)
        assert not names("ending")

    run(body())


def test_cancelled() -> None:
    """A job goes on when nobody waits for it any more, and keeps its place."""

    async def body() -> None:
        threads = Threads(1, "cancelled")
        gate = threading.Event()
        job = threads.run(gate.wait)
        job.cancel()
        following = threads.run(lambda: "second")
        assert len(names("cancelled")) == 1
        gate.set()
        assert await following == "second"
        threads.close()

    run(body())


def test_a_job_that_outlives_the_loop() -> None:
    """It disturbs nobody."""
    gate = threading.Event()

    async def body() -> None:
        Threads(1, "outliving").run(gate.wait)

    run(body())
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("outliving"):
            thread.join(10)
    assert not names("outliving")
