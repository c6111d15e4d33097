"""Host functions that suspend their guest: from C's callback to the services and back.

ctypes prints and drops what a callback raises, and wasmtime aborts the process when a callback has set no continuation:
so a harmless one and a result are set first, then comes what can fail. Callbacks are module globals, since wasmtime
keeps only their addresses.

    callback ── answer at once ──→ result, `_already_done`: no task
        └────── an awaitable ────→ Waiting: a task or future; `_go_on` is asked at each poll, until it settles the wait;
                                   `give_up` instead when the guest is killed
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from atmo_farm import clock
from atmo_farm.runtime import capi
from atmo_farm.runtime.ticker import current

if TYPE_CHECKING:
    from atmo_farm.runtime.instance import Instance

Answer = bytes | Awaitable[bytes]
Asked = tuple[Answer, Callable[["Instance", bytes], int]]
"""What a handler gives: the answer, and what makes the guest's number of it when it is there."""

VALUE_WORDS = 8
"""Words of 4 bytes from one value to the next."""
NUMBER = 2
"""The word of a value that holds an i32."""
FAILED = 0xFFFFFFFF
"""-1: the host failed and nothing is pending."""


class Waiting:
    """One guest's wait for one task. `result` is wasmtime's own value, which lives as long as the continuation."""

    __slots__ = ("began", "failed", "finish", "instance", "name", "number", "result", "task")

    def __init__(
        self,
        instance: Instance,
        name: str,
        task: asyncio.Future[bytes],
        result: Any,
        finish: Callable[[Instance, bytes], int],
        failed: Callable[[Instance, BaseException], int],
    ):
        self.instance, self.name, self.task, self.result = instance, name, task, result
        self.finish, self.failed = finish, failed
        self.began = clock.monotonic()
        self.number = next(_numbers)
        """By which C knows it."""

    def wake(self, task: asyncio.Future[bytes]) -> None:
        """The task is done: let the guest have a turn, if it still waits for it."""
        if not task.cancelled():
            task.exception()  # else asyncio calls it lost when the guest is killed before it gets it
        instance = self.instance
        if instance.waiting is self and instance.waiter is not None:
            instance.engine.scheduler.wake(instance)

    def settle(self) -> None:
        """Put the guest's result in place; the task is done. Runs inside poll, where its store may be touched."""
        try:
            self.result[NUMBER] = self.finish(self.instance, self.task.result()) & FAILED
        except BaseException as error:
            self.result[NUMBER] = self.failed(self.instance, error) & FAILED

    def give_up(self) -> None:
        """The guest was killed while it waited; its future is gone."""
        self.instance.engine.waited(self.name, clock.monotonic() - self.began)
        del _waits[self.number]
        self.task.cancel()


_waits: dict[int, Waiting] = {}
_numbers = itertools.count(1)


def _already_done(_: int | None) -> bool:
    return True


def _go_on(number: int) -> bool:
    try:
        waiting = _waits[number]
        if not waiting.task.done():
            return False
        instance = waiting.instance
        if instance.epoch != instance.engine.ticker.epoch:
            instance.begin_slice()  # only here: one that never had to wait must not get slice after slice
        del _waits[number]
        instance.waiting = None
        instance.engine.waited(waiting.name, clock.monotonic() - waiting.began)
        waiting.settle()
    except BaseException:  # its result stays -1
        return True
    return True


_KEPT = capi.Continuation(_already_done), capi.Continuation(_go_on)
_ALREADY_DONE, _GO_ON = map(capi.address, _KEPT)


def callback(
    name: str,
    handler: Callable[[Instance, Any], Asked],
    failed: Callable[[Instance, BaseException], int],
) -> Any:
    """The C callback of a host function that may wait.

    `handler` gets the instance and the arguments (word VALUE_WORDS * i + NUMBER is argument i); `failed` makes the
    guest's number of what it, or the answer, raised. Neither may block.
    """

    def call(_: int, __: int, arguments: Any, ___: int, results: Any, ____: int, _____: int, out: Any) -> None:
        out[0], out[1], out[2] = _ALREADY_DONE, 0, 0
        results[0] = 0
        results[NUMBER] = FAILED
        try:
            instance = current.instance
            assert instance is not None
            try:
                if clock.monotonic() > instance.engine.ticker.late_at:
                    instance.engine.ticker.tick()
                answer, finish = handler(instance, arguments)
                if type(answer) is bytes:
                    results[NUMBER] = finish(instance, answer) & FAILED
                    return
                task = answer
                if type(task) is not asyncio.Future:
                    task = asyncio.ensure_future(answer, loop=instance.engine.loop)  # type: ignore[arg-type]
                waiting = Waiting(instance, name, task, results, finish, failed)
                if task.done():
                    waiting.settle()
                    return
            except BaseException as error:
                results[NUMBER] = failed(instance, error) & FAILED
                return
            _waits[waiting.number] = instance.waiting = waiting
            task.add_done_callback(waiting.wake)
            out[0], out[1] = _GO_ON, waiting.number
        except BaseException:
            return

    return capi.AsyncCallback(call)
