"""wasmtime's engine as this farm configures it, the same where modules are compiled and where they run."""

from __future__ import annotations

import ctypes
import hashlib
import platform
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


def new_engine() -> int:
    """A new wasm_engine_t; whoever asked for it deletes it, after everything that was made with it."""
    config = capi.config_new()
    for name, value in _SETTINGS:
        setter = ffi.dll[f"wasmtime_config_{name}"]
        setter.restype = None
        setter.argtypes = [ctypes.c_void_p, ctypes.c_bool if isinstance(value, bool) else ctypes.c_uint64]
        setter(config, value)
    return int(capi.engine_new_with_config(config))


@cache
def fingerprint() -> bytes:
    """Differs wherever a compiled module could not be loaded: settings, wasmtime's version, the machine's CPU."""
    flags = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features"))]
    text = repr((_SETTINGS, metadata.version("wasmtime"), platform.machine(), flags[:1]))
    return hashlib.sha256(text.encode()).digest()
