"""A function's modules, loaded and linked as far as that goes without a store: what its instances are made from."""

from __future__ import annotations

import ctypes
from typing import Any

from atmo_farm.runtime import abi, capi, failures, host, sink, wasi
from atmo_farm.runtime.config import CORE_INSTANCES, MEMORIES, TABLE_LIMIT, TABLES
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.invoker import EXPORTS, Interface
from atmo_farm.runtime.layout import PAGE
from atmo_farm.runtime.modules import CompiledModule


class Frame:
    """The C structures that making and calling one instance takes, kept for the next instance: fresh ones stay cheap.

    0 trap  8 error  16 sink  32 guest  48 invoker  64 call  96 then: the invoker's imports, the guest's imports
    and the start functions, 32 bytes each
    """

    __slots__ = ("_buffer", "call", "ends", "error", "externs", "guest", "invoker", "sink", "trap")

    def __init__(self, externs: int):
        self._buffer = (ctypes.c_uint8 * (96 + externs * capi.EXTERN_SIZE))()
        at = ctypes.addressof(self._buffer)
        self.trap, self.error = at, at + 8
        self.sink, self.guest, self.invoker, self.call = at + 16, at + 32, at + 48, at + 64
        self.externs = at + 96
        self.ends = memoryview(self._buffer).cast("B")[:16].cast("Q")
        """The trap and the error of the last call, as addresses; 0 for none."""


class Program:
    """GuestOutOfMemory if the module needs more than `memory_limit` before it runs at all."""

    def __init__(self, engine: Engine, compiled: CompiledModule, memory_limit: int):
        if compiled.memory_pages * PAGE > memory_limit:
            raise failures.does_not_start("memory", compiled.memory_pages * PAGE, memory_limit, "bytes")
        if compiled.table_elements > TABLE_LIMIT:
            raise failures.does_not_start("tables", compiled.table_elements, TABLE_LIMIT, "elements")
        self.engine = engine
        self.memory_limit = memory_limit
        self.interface: Interface = compiled.interface
        self.frees_input = False
        """Learnt when deallocate traps after run_e: such guests have freed their input already."""
        guest, own_sink, own_invoker = compiled.files
        self._sink, self._guest, self._invoker = map(engine.module, (own_sink, guest, own_invoker))
        self._linker = capi.linker_new(engine.address)
        self._frames: list[Frame] = []
        imports = [tuple(name.split(" ", 1)) for name in compiled.imports]
        self._define({(module, name) for module, name in imports if not sink.exported(module, name)})
        exports = EXPORTS[self.interface]
        own = len(exports) + 2
        size = capi.EXTERN_SIZE
        self._from_guest = [(name.encode(), index * size) for index, name in enumerate(exports)]
        self._io_at, self._hooks_at, self._imports_at = len(exports) * size, (len(exports) + 1) * size, own * size
        self._own = own
        self._from_sink = [
            (name.encode(), (own + index) * size)
            for index, (module, name) in enumerate(imports)
            if sink.exported(module, name)
        ]
        self._from_linker = [
            (module.encode(), name.encode(), (own + index) * size)
            for index, (module, name) in enumerate(imports)
            if not sink.exported(module, name)
        ]
        self._imports = len(imports)
        first = own + len(imports)
        self.starts = [(name.encode(), (first + index) * size) for index, name in enumerate(compiled.starts)]
        self._externs = first + len(compiled.starts)

    def _define(self, functions: set[tuple[str, str]]) -> None:
        for module, name in functions:
            base = name.removesuffix("_swift") if module == abi.ENV else name
            sync, waits = (host.SYNC, host.ASYNC) if module == abi.ENV else (wasi.SYNC, wasi.ASYNC)
            define, callback = (
                (capi.linker_define_sync, sync[base]) if base in sync else (capi.linker_define_async, waits[base])
            )
            signature = abi.imported(module, name)
            assert signature is not None
            kind = capi.functype(*signature)
            names: tuple[Any, ...] = (module.encode(), len(module), name.encode(), len(name))
            capi.check(define(self._linker, *names, kind, capi.address(callback), None, None))
            capi.functype_delete(kind)

    def frame(self) -> Frame:
        """Room for one instance."""
        return self._frames.pop() if self._frames else Frame(self._externs)

    def give_back(self, frame: Frame) -> None:
        """The instance of this frame is gone."""
        self._frames.append(frame)

    def instantiate(self, frame: Frame, store: int, context: int) -> None:
        """Make the three instances in a new store and leave their addresses in the frame. Runs no guest code.

        They are made synchronously, which is cheaper than on a fiber and allowed before the store is told to yield.
        GuestTrapped: a data or element segment does not fit, or there are too many tables, or no room is left.
        """
        capi.store_limiter(store, self.memory_limit, TABLE_LIMIT, CORE_INSTANCES, TABLES, MEMORIES)
        capi.set_epoch_deadline(context, 1 << 40)  # a new store's has passed: its first instruction would trap
        externs = frame.externs
        get = capi.instance_export_get
        imports = externs + self._imports_at
        self._new(frame, context, self._sink, 0, 0, frame.sink)
        for name, at in self._from_sink:
            get(context, frame.sink, name, len(name), externs + at)
        for module, name, at in self._from_linker:
            capi.linker_get(self._linker, context, module, len(module), name, len(name), externs + at)
        self._new(frame, context, self._guest, imports, self._imports, frame.guest)
        for name, at in self._from_guest:
            get(context, frame.guest, name, len(name), externs + at)
        get(context, frame.sink, b"io", 2, externs + self._io_at)
        get(context, frame.sink, b"hooks", 5, externs + self._hooks_at)
        self._new(frame, context, self._invoker, externs, self._own, frame.invoker)
        get(context, frame.invoker, b"call", 4, frame.call)
        for name, at in self.starts:
            get(context, frame.guest, name, len(name), externs + at)
        capi.set_epoch_deadline(context, 1)
        capi.epoch_async_yield(context, 1)

    def _new(self, frame: Frame, context: int, module: int, imports: int, count: int, at: int) -> None:
        error = capi.instance_new(context, module, imports, count, at, frame.trap)
        if frame.ends[0]:
            code, text = capi.take_trap(frame.ends[0])
            frame.ends[0] = 0
            raise failures.trapped(code, text, 0, self.memory_limit)
        try:
            capi.check(error)
        except capi.WasmtimeError as reason:
            raise failures.not_instantiated(reason) from reason

    @property
    def memory_handles(self) -> tuple[int, int]:
        """Where, from a frame's externs, the guest's memory and the I/O memory are."""
        return capi.EXTERN_OF, self._io_at + capi.EXTERN_OF

    def close(self) -> None:
        """Free the linker; all instances must be gone."""
        capi.linker_delete(self._linker)
