"""One guest in its own store: what a call needs is prepared once, one call at a time."""

from __future__ import annotations

import contextvars
import ctypes
import itertools
from typing import TYPE_CHECKING

from atmo_farm.runtime import capi, layout
from atmo_farm.runtime.config import FULL_RESERVATION
from atmo_farm.runtime.layout import DATA_AT, INPUT_LEN, PAGE, STATUS
from atmo_farm.runtime.memory import GuestMemory, Refused
from atmo_farm.runtime.ticker import current

if TYPE_CHECKING:
    import asyncio

    from atmo_farm.runtime.program import Program
    from atmo_farm.runtime.services import Services
    from atmo_farm.runtime.waiting import Waiting

FIRST_SLICE_TICKS = 2
"""A call begins somewhere inside a tick: with one, a short call would often be cut off at once, and those behind it
would have to queue. So its first slice is one to two ticks long; each later one is one tick."""

_numbers = itertools.count(1)
_View = ctypes.c_uint8 * FULL_RESERVATION


class OutsideOfRun(Refused):
    """A host function was called while there is no message: from a start function."""


class Instance:
    """A store with its sink, guest and invoker.

    After `broken` is set the guest must not run again. wasmtime's rules, which the callers of this class keep: a future
    is deleted before its store, there is one future at a time, and only a poll runs guest code.
    """

    __slots__ = (
        "_context",
        "_error",
        "_func",
        "_future",
        "_io_handle",
        "_io_size",
        "_queued",
        "_store",
        "_trap",
        "broken",
        "context_variables",
        "engine",
        "epoch",
        "frame",
        "header",
        "io",
        "memory",
        "program",
        "services",
        "used_at",
        "variables",
        "variables_size",
        "waiter",
        "waiting",
    )

    def __init__(self, program: Program):
        self.program = program
        self.engine = program.engine
        self.services: Services | None = None
        """Of the message that is being run, for the time of its call only."""
        self.waiter: asyncio.Future[None] | None = None
        self.waiting: Waiting | None = None
        self.variables: list[tuple[str, bytes]] = []
        self.variables_size = 0
        self.context_variables = _EMPTY
        self.used_at = 0.0
        self.broken = False
        self._future = 0
        self.epoch = -1
        self._queued = 0
        """The function that the scheduler calls when it is our turn; 0 once it has."""
        self.frame = frame = program.frame()
        self._store: int = capi.store_new(self.engine.address, None, None)
        self._context: int = capi.store_context(self._store)
        try:
            program.instantiate(frame, self._store, self._context)
        except BaseException:
            capi.store_delete(self._store)
            program.give_back(frame)
            raise
        self._trap, self._error = frame.trap, frame.error
        self._func = frame.call + capi.EXTERN_OF
        memory, io = program.memory_handles
        self.memory = GuestMemory(self._context, frame.externs + memory)
        self._io_handle = frame.externs + io
        view = memoryview(_View.from_address(capi.memory_data(self._context, self._io_handle)))
        self.io = view.cast("B")
        """The I/O memory's whole range, of which only the first `_io_size` bytes exist: others end the process."""
        self._io_size = PAGE
        self.header = self.io[: layout.TEXT_AT].cast("I")
        self.header[layout.IDENT] = next(_numbers) & 0x7FFFFFFF
        self.header[layout.TOP] = DATA_AT
        self.header[layout.PENDING_LEN] = layout.NO_PENDING
        self.header[layout.SKIP_DEALLOCATE] = program.frees_input

    async def start(self, deadline: float) -> None:
        """Run the start functions, each like a call; one that fails leaves its trap, and the instance `broken`."""
        for _, at in self.program.starts:
            self.header[layout.EXITED] = 0
            if not self._go(self.frame.externs + at + capi.EXTERN_OF):
                await self.finish(deadline)
            if self.trapped and not (self.header[layout.EXITED] and self.header[layout.EXIT_CODE] == 0):
                self.broken = True
                return
            self.take_trap()

    def begin(self, data: bytes) -> bool:
        """Start a call with its input; True when it has ended on its first poll. MemoryError: no room for the input."""
        end = DATA_AT + len(data)
        if end > self._io_size:
            self._grow(end)
        self.io[DATA_AT:end] = data
        header = self.header
        header[INPUT_LEN] = len(data)
        header[STATUS] = 0
        return self._go(self._func)

    def _go(self, func: int) -> bool:
        """Call a function; True when it has ended on its first poll."""
        # While busy guests wait for their turn, newcomers are queued: else ten endless guests that arrive together
        # would each take a slice in the same turn of the loop.
        if self.engine.scheduler.busy:
            self._queued = func
            return False
        self._create(func)
        if self._poll():
            capi.future_delete(self._future)
            self._future = 0
            return True
        return False

    def _create(self, func: int) -> None:
        if self.epoch != self.engine.ticker.epoch:  # else its first check would yield, for a deadline long past
            self.begin_slice()
        self._future = capi.call_async(self._context, func, None, 0, None, 0, self._trap, self._error)

    def begin_slice(self) -> None:
        """For a new call, or, inside its poll, for a guest that goes on after a wait; needed if `epoch` is past."""
        self.epoch = self.engine.ticker.epoch
        capi.set_epoch_deadline(self._context, FIRST_SLICE_TICKS)

    def _poll(self) -> bool:
        outer = current.instance  # whose host function runs us, if any
        current.instance = self
        ticker = self.engine.ticker
        if ticker.parked:
            ticker.wake.set()
        entered = self.engine.entered
        if entered is None:
            done: bool = capi.future_poll(self._future)
        else:
            before = entered[0]
            entered[0] = self.services.number if self.services is not None else 0
            done = capi.future_poll(self._future)
            entered[0] = before
        current.instance = outer
        return done

    def take_turn(self) -> bool:
        """Let the guest run until it ends (True), waits, or has used up its slice."""
        if self._queued:
            self._create(self._queued)
            self._queued = 0
        return self._poll()

    async def finish(self, deadline: float) -> None:
        """Let the scheduler finish what did not end on its first poll; GuestTimedOut.

        Deleting an unfinished future unwinds the guest; none of its code runs. The guest is then `broken`.
        """
        self.context_variables = contextvars.copy_context()  # for what host functions call in later polls
        try:
            await self.engine.scheduler.finish(self, deadline, polled=not self._queued)
        except BaseException:  # killed, or our task was cancelled
            self.broken = True
            raise
        finally:
            self._queued = 0
            if self._future:
                future, self._future = self._future, 0
                capi.future_delete(future)
            self.context_variables = _EMPTY

    def runnable(self) -> bool:
        """Whether a poll can get further. The poll itself does not say if the guest waits or only used up its slice."""
        return self.waiting is None or self.waiting.task.done()

    @property
    def doing(self) -> str:
        """What an unfinished call is at."""
        if self._queued:
            return "waiting for its turn"
        return "computing" if self.waiting is None or self.runnable() else f"waiting in {self.waiting.name}"

    @property
    def trapped(self) -> bool:
        """Whether the last call ended with a trap or an error."""
        ends = self.frame.ends
        return bool(ends[0] or ends[1])

    def take_trap(self) -> tuple[int | None, str]:
        """Code and text of the last call's trap or error, which is freed."""
        ends = self.frame.ends
        trap, error = ends[0], ends[1]
        ends[0] = ends[1] = 0
        if trap:
            return capi.take_trap(trap)
        try:
            capi.check(error)
        except capi.WasmtimeError as reason:
            return None, str(reason)
        return None, ""

    def run(self) -> Services:
        """The services of the message that is being run; OutsideOfRun (the guest sees -1) when there is none."""
        if self.services is None:
            raise OutsideOfRun
        return self.services

    def pend(self, value: bytes) -> int:
        """Lay down what get_ffi_result will fetch, in place of what was pending; returns its length.

        What does not fit below the memory limit becomes an error text: minus its length is returned.
        """
        header = self.header
        top = header[layout.TOP]
        if header[layout.PENDING_LEN] != layout.NO_PENDING:
            before = header[layout.PENDING_PTR]
            if before + header[layout.PENDING_LEN] == top:  # never fetched: its room is free
                top = before
        end = top + len(value)
        if end > self._io_size:
            try:
                self._grow(end)
            except MemoryError:
                text = b"the answer does not fit into the function's memory limit"
                return -self.pend(text) if len(value) > len(text) else -1
        self.io[top:end] = value
        header[layout.PENDING_PTR], header[layout.PENDING_LEN], header[layout.TOP] = top, len(value), end
        return len(value)

    def add_variable(self, name: str, value: bytes, size: int) -> None:
        """Keep a variable for db_exec; `size` is what all of them count as now."""
        self.variables.append((name, value))
        self.variables_size = size
        self.header[layout.NOTE] = 1

    def take_variables(self) -> list[tuple[str, bytes]]:
        """The variables so far, which are then forgotten."""
        taken, self.variables, self.variables_size = self.variables, [], 0
        return taken

    def text(self) -> bytes:
        """What the guest has written to stdout and stderr since the last time."""
        length = self.header[layout.TEXT_LEN]
        self.header[layout.TEXT_LEN] = 0
        return self.io[layout.TEXT_AT : layout.TEXT_AT + length].tobytes()

    def copied(self, at: int, length: int) -> bytes:
        """Bytes that the invoker has laid down."""
        return self.io[at : at + length].tobytes()

    def _grow(self, end: int) -> None:
        self._io_size = capi.memory_data_size(self._context, self._io_handle)  # the invoker may have grown it
        if end <= self._io_size:
            return
        before = ctypes.c_uint64()
        pages = (end - self._io_size + PAGE - 1) // PAGE
        try:
            capi.check(capi.memory_grow(self._context, self._io_handle, pages, ctypes.addressof(before)))
        except capi.WasmtimeError as error:
            raise MemoryError(str(error)) from error
        self._io_size += pages * PAGE

    def close(self) -> None:
        """Throw the store away. No call may be under way: a future that is left would abort the process."""
        if not self._store:
            return
        assert not self._future, "a call is under way"
        if self.trapped:
            self.take_trap()
        self.header = self.io = memoryview(b"")
        self.services = None
        capi.store_delete(self._store)
        self._store = 0
        self.program.give_back(self.frame)


_EMPTY = contextvars.Context()
