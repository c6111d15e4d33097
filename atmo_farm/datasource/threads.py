"""A few threads for calls that may block: a database driver's, never anything else."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

_Task = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class Threads:
    """At most `count` of them, each started when there is work for it.

    They are daemons: one that is stuck in a driver does not keep the process from ending.
    """

    def __init__(self, count: int, name: str):
        self._count = count
        self._name = name
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._started = 0
        self._busy = 0

    def run(self, job: Callable[[], ResultT]) -> asyncio.Future[ResultT]:
        """Call it on a thread, in its turn. Cancelling the future does not stop it; its result is dropped then."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT] = loop.create_future()
        self._busy += 1
        if self._busy > self._started < self._count:
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name} {self._started}", daemon=True).start()
        self._tasks.put((job, future, loop))
        return future

    def close(self) -> None:
        """End them when what was given to them is done; does not wait for that."""
        for _ in range(self._started):
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            job, future, loop = task
            result, error = None, None
            try:
                result = job()
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(self._done, future, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            del task, job, future, loop, result, error

    def _done(self, future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
        self._busy -= 1
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
