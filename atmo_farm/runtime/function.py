"""One function of the application: `call` runs one message through one of its instances."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Literal, final

from atmo_farm import clock
from atmo_farm.errors import AtmoFarmError, GuestFailed, GuestTimedOut
from atmo_farm.runtime import failures, outcome
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.instance import Instance
from atmo_farm.runtime.layout import LEN, PTR, STATUS, STATUS_RESULT
from atmo_farm.runtime.modules import CompiledModule
from atmo_farm.runtime.pool import Pool
from atmo_farm.runtime.program import Program
from atmo_farm.runtime.services import Services


@final
class Unfinished:
    """The rest of a run, to be awaited exactly once, and soon: an instance is waiting in the middle of it."""

    __slots__ = ("_rest",)

    def __init__(self, rest: Coroutine[Any, Any, bytes | None]):
        self._rest = rest

    def __await__(self) -> Generator[Any, None, bytes | None]:
        return self._rest.__await__()


class Function:
    """A pool of instances of one compiled module.

    `memory_limit`: bytes of each guest's memory, and of each call's input and outputs together.
    `isolation`: `pooled` instances run one message after another; `fresh` ones (WASI commands always) run a single one.
    Raises cache.BadFile if a compiled file is not as this farm wrote it, and GuestOutOfMemory if the module needs more
    than its limit before it runs.
    """

    def __init__(
        self,
        engine: Engine,
        compiled: CompiledModule,
        *,
        memory_limit: int = 64 << 20,
        isolation: Literal["pooled", "fresh"] = "pooled",
        pool_warm: int = 1,
        pool_max: int = 256,
    ):
        if memory_limit > engine.memory_reservation:
            raise AtmoFarmError(
                f"a memory limit of {memory_limit} bytes is more than this process's {engine.memory_reservation}"
            )
        self._engine = engine
        self._limit = memory_limit
        reuse = isolation == "pooled" and compiled.interface == "runnable"
        self._pool = Pool(Program(engine, compiled, memory_limit), pool_warm, pool_max, reuse)
        engine.functions.add(self)

    @property
    def instances(self) -> int:
        """How many instances there are now, in use, idle or being made."""
        return self._pool.count

    @property
    def waits(self) -> int:
        """How many runs ever had to wait for an instance."""
        return self._pool.waits

    async def warm(self) -> None:
        """Make the warm instances. GuestTrapped, GuestTimedOut or GuestOutOfMemory if the guest does not start."""
        await self._pool.warm()

    async def call(self, data: bytes, services: Services, deadline: float) -> bytes | None:
        """Run the guest once with `data`, at most until `deadline` (clock.monotonic() seconds).

        Returns its result, or None when it gave neither a result nor an error. Raises RunnableError for the guest's own
        error; GuestTrapped, GuestTimedOut or GuestOutOfMemory when it ended otherwise, and its instance is thrown away;
        the same when our task is cancelled.
        """
        result = self.begin(data, services, deadline)
        return await result if isinstance(result, Unfinished) else result

    def begin(self, data: bytes, services: Services, deadline: float) -> bytes | Unfinished | None:
        """As `call`, but a run that ends on its first poll costs no coroutine, task, future, timer or turn of the loop.

        Any other, also one that must wait for an instance, is Unfinished: await that for the rest.
        """
        now = clock.monotonic()
        if now >= deadline:
            raise GuestTimedOut("not started: its deadline had passed")
        pool = self._pool
        if not pool.idle:
            return Unfinished(self._acquire_and_run(data, services, deadline))
        instance = pool.idle.pop()
        instance.used_at = now
        instance.services = services
        try:
            if not instance.begin(data):
                return Unfinished(self._finish(instance, services, deadline))
            return self._take(instance, services)
        except BaseException as error:
            self._failed(instance, services, error)
            raise

    async def _acquire_and_run(self, data: bytes, services: Services, deadline: float) -> bytes | None:
        instance = await self._pool.acquire(deadline)
        instance.used_at = clock.monotonic()
        instance.services = services
        try:
            ended = instance.begin(data)
        except BaseException as error:
            self._failed(instance, services, error)
            raise
        if not ended:
            return await self._finish(instance, services, deadline)
        try:
            return self._take(instance, services)
        except BaseException as error:
            self._failed(instance, services, error)
            raise

    async def _finish(self, instance: Instance, services: Services, deadline: float) -> bytes | None:
        """The rest of a run that has begun."""
        try:
            await instance.finish(deadline)
            return self._take(instance, services)
        except BaseException as error:
            self._failed(instance, services, error)
            raise

    def _take(self, instance: Instance, services: Services) -> bytes | None:
        """The result of a run that has ended, and the instance back into the pool."""
        header, pool = instance.header, self._pool
        if header[STATUS] == STATUS_RESULT and pool.direct:  # a result and nothing else
            at = header[PTR]
            result: bytes | None = instance.io[at : at + header[LEN]].tobytes()
            instance.services = None
            pool.idle.append(instance)
            return result
        result = outcome.read(instance, services)
        instance.services = None
        pool.release(instance)
        return result

    def _failed(self, instance: Instance, services: Services, error: BaseException) -> None:
        """Put the instance away after a call that raised, and hand over what a killed guest had printed."""
        instance.services = None
        if isinstance(error, GuestFailed) or not isinstance(error, AtmoFarmError):
            instance.broken = True
        text = instance.text()
        if text:
            outcome.hand_over(services, text)
        self._pool.release(instance)
        if isinstance(error, MemoryError):
            raise failures.too_large("its input", self._limit) from error

    def close(self) -> None:
        """Throw the idle instances away, and those in use when their calls have ended."""
        self._engine.functions.discard(self)
        self._pool.close()
