"""Start a coroutine without a task: most messages are done before anything waits.

`asyncio.eager_task_factory` does this from Python 3.12 on; here is the part of it that the consumer needs on 3.11.
The first leg runs outside of any task, so a coroutine that is started here must not use what needs a current task
before it first waits: no `asyncio.timeout`, no `TaskGroup`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def start(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Run it to its first wait, now. None when it ended there; else a task that runs the rest."""
    try:
        waited_for = coroutine.send(None)
    except StopIteration:
        return None
    return loop.create_task(_Rest(coroutine, waited_for))


class _Rest(Coroutine[Any, Any, None]):
    """A started coroutine as a task wants it: the first send hands out the future that it waits for already."""

    __slots__ = ("_coroutine", "_waited_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waited_for: Any):
        self._coroutine = coroutine
        self._waited_for = waited_for

    def send(self, value: None) -> Any:
        if self._waited_for is None:
            return self._coroutine.send(value)
        waited_for, self._waited_for = self._waited_for, None
        return waited_for

    def throw(self, *error: Any) -> Any:
        if self._waited_for is not None:  # cancelled before the task began: it does not know the future yet
            self._waited_for.cancel()
            self._waited_for = None
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        raise TypeError("this is for create_task only")
