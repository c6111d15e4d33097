"""wasmtime's engine as this farm configures it, the same where modules are compiled and where they run."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import resource
from functools import cache
from importlib import metadata
from pathlib import Path

from wasmtime import _ffi as ffi

from atmo_farm.runtime import capi

FULL_RESERVATION = 1 << 32
"""Address space kept for each linear memory. With all of 4 GiB the compiled code needs no bounds checks: 64 MiB made a
loop over memory 22-50 % slower (docs/decisions/0003) and saved no mapping; address space itself costs nothing."""

MAX_WASM_STACK = 512 << 10
"""What a guest may use of its fiber's stack, in bytes."""

FIBER_STACK = 2 << 20
"""The fiber's whole stack: host functions, and all Python below them, run on it too. Below MAX_WASM_STACK,
wasm_engine_new_with_config aborts; equal, deep guests that call the host abort."""

_NEVER_OVERCOMMIT = 2
"""Of vm.overcommit_memory."""

_SETTINGS: tuple[tuple[str, int], ...] = (
    ("epoch_interruption_set", True),
    ("parallel_compilation_set", False),  # its threads do not survive a fork
    ("max_wasm_stack_set", MAX_WASM_STACK),
    ("async_stack_size_set", FIBER_STACK),
    ("memory_reservation_set", FULL_RESERVATION),
    ("memory_may_move_set", False),  # so an address stays good for the whole life of its store
    ("wasm_threads_set", False),
    ("wasm_memory64_set", False),
    ("wasm_function_references_set", False),
    ("wasm_gc_set", False),
    ("wasm_exceptions_set", False),  # they live in a collected heap, and a collection holds the loop for 100-500 ms
    ("wasm_component_model_set", False),
    ("wasm_multi_memory_set", True),  # the invoker's
)

MEMORIES, TABLES, CORE_INSTANCES = 2, 16, 3
"""Of one instance of ours at most: the guest, its sink and its invoker in one store."""
TABLE_LIMIT = 1 << 18
"""Elements of one table."""

KEPT_RESIDENT = 64 << 10
"""Bytes at the beginning of a memory that are cleared, not given back, when its instance is gone: the next one finds
them mapped."""
KEPT_STACK = 32 << 10
"""As KEPT_RESIDENT, of a fiber's stack."""

MOST_INSTANCES = 10_000
"""Of 128 TiB of address space an instance takes 8.4 GiB."""


def new_engine(instances: int = 0, tables: int = TABLES) -> int:
    """A new wasm_engine_t; whoever asked for it deletes it, after everything that was made with it.

    With `instances` there is room for so many, of `tables` tables each, reserved now: to make one and drop it again
    takes a third of the time (docs/decisions/0018). Without, or where so much cannot be reserved, each maps its own.
    """
    config = capi.config_new()
    if 0 < instances <= MOST_INSTANCES and _may_reserve():
        _reserve(config, instances, tables)
    for name, value in _SETTINGS:
        setter = ffi.dll[f"wasmtime_config_{name}"]
        setter.restype = None
        setter.argtypes = [ctypes.c_void_p, ctypes.c_bool if isinstance(value, bool) else ctypes.c_uint64]
        setter(config, value)
    return int(capi.engine_new_with_config(config))


def _may_reserve() -> bool:
    """wasmtime aborts the process if it cannot: where address space is limited or counted as memory, we do not try."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return False
    try:
        return int(Path("/proc/sys/vm/overcommit_memory").read_text()) != _NEVER_OVERCOMMIT
    except (OSError, ValueError):
        return False


def _reserve(config: int, instances: int, tables: int) -> None:
    sizes = {
        "total_core_instances": CORE_INSTANCES * instances,
        "total_memories": MEMORIES * instances,
        "total_tables": tables * instances,
        "total_stacks": instances,
        "total_gc_heaps": 0,
        "total_component_instances": 0,
        "max_memory_size": FULL_RESERVATION,
        "table_elements": TABLE_LIMIT,
        "linear_memory_keep_resident": KEPT_RESIDENT,
        "async_stack_keep_resident": KEPT_STACK,
        # What one store may have is the limiter's business, which says it better.
        "max_memories_per_module": 1 << 16,
        "max_tables_per_module": 1 << 16,
        "max_core_instance_size": 1 << 30,
    }
    pool = capi.pooling_config_new()
    for name, value in sizes.items():
        setter = ffi.dll[f"wasmtime_pooling_allocation_config_{name}_set"]
        setter.restype = None
        counts = name.startswith("total_") or name.endswith("_per_module")
        setter.argtypes = [ctypes.c_void_p, ctypes.c_uint32 if counts else ctypes.c_size_t]
        setter(pool, value)
    capi.pooling_strategy_set(config, pool)
    capi.pooling_config_delete(pool)


@cache
def fingerprint() -> bytes:
    """Differs wherever a compiled module could not be loaded: settings, wasmtime's version, the machine's CPU."""
    flags = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))]
    text = repr((_SETTINGS, metadata.version("wasmtime"), platform.machine(), flags[:1]))
    return hashlib.sha256(text.encode()).digest()
