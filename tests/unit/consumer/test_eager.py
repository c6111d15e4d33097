"""Starting a coroutine without a task."""

import asyncio
from collections.abc import Awaitable

import pytest

from atmo_farm.consumer import eager


def test_no_task_for_a_coroutine_that_does_not_wait() -> None:
    """It has ended when start returns."""
    done = []

    async def quick() -> None:
        done.append(1)

    async def main() -> None:
        assert eager.start(quick(), asyncio.get_running_loop()) is None
        assert done == [1]

    asyncio.run(main())


def test_the_rest_runs_in_a_task() -> None:
    """Values, exceptions and several waits pass through, futures, tasks and bare yields alike."""
    seen: list[object] = []

    async def slow(first: Awaitable[int], second: Awaitable[int]) -> None:
        seen.append(await first)
        await asyncio.sleep(0)
        try:
            await second
        except ValueError as error:
            seen.append(str(error))
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
        seen.append("end")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        task = eager.start(slow(first, second), loop)
        assert task is not None
        first.set_result(7)
        second.set_exception(ValueError("bad"))
        await task
        assert seen == [7, "bad", "end"]

    asyncio.run(main())


def test_an_exception_before_the_first_wait_reaches_the_caller() -> None:
    """Just as calling a function does."""

    async def bad() -> None:
        raise KeyError("x")

    async def main() -> None:
        with pytest.raises(KeyError):
            eager.start(bad(), asyncio.get_running_loop())

    asyncio.run(main())


def test_cancelling_the_task_reaches_the_coroutine() -> None:
    """Also what it waits for is cancelled, and its finally runs."""
    ended = []

    async def waits(future: asyncio.Future[None]) -> None:
        try:
            await future
        finally:
            ended.append(1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        task = eager.start(waits(future), loop)
        assert task is not None
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() and future.cancelled() and ended == [1]

    asyncio.run(main())


def test_a_task_that_is_cancelled_before_it_began_ends_the_coroutine_too() -> None:
    """The task never enters the coroutine then; its finally must run all the same."""
    ended = []

    async def waits(future: asyncio.Future[None]) -> None:
        try:
            await future
        finally:
            ended.append(1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = eager.start(waits(loop.create_future()), loop)
        assert task is not None
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() and ended == [1]

    asyncio.run(main())
