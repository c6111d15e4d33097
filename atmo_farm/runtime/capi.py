"""The functions of wasmtime's public C API that the runtime calls itself, declared with plain addresses.

wasmtime-py brings the library and the structures. Its own objects cost 30–150 µs a call, and it has no fibers; through
these prototypes a call is 3 µs. `POINTER` types would build an object for every argument and result, so addresses are
integers here. Each function is a new object (`dll[name]`): `dll.name` is the bindings' own, whose types must not change.
The library is a `CDLL`, never a `PyDLL`: the GIL must be free while a guest runs, or the epoch ticker never ticks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from atmo_farm.errors import GuestTrapped

P, S = c_void_p, c_size_t


def _function(name: str, restype: Any, *argtypes: Any) -> Callable[..., Any]:
    function = ffi.dll[name]
    function.restype, function.argtypes = restype, argtypes
    return function  # type: ignore[no-any-return]


store_new = _function("wasmtime_store_new", P, P, P, P)
store_context = _function("wasmtime_store_context", P, P)
store_limiter = _function("wasmtime_store_limiter", None, P, c_int64, c_int64, c_int64, c_int64, c_int64)
store_delete = _function("wasmtime_store_delete", None, P)
set_epoch_deadline = _function("wasmtime_context_set_epoch_deadline", None, P, c_uint64)
# The bindings declare an error as its result; the library returns nothing, and what is read there is garbage.
epoch_async_yield = _function("wasmtime_context_epoch_deadline_async_yield_and_update", None, P, c_uint64)
increment_epoch = _function("wasmtime_engine_increment_epoch", None, P)
async_stack_size_set = _function("wasmtime_config_async_stack_size_set", None, P, S)
linker_define_instance = _function("wasmtime_linker_define_instance", P, P, P, c_char_p, S, P)
linker_define_func_unchecked = _function(
    "wasmtime_linker_define_func_unchecked", P, P, c_char_p, S, c_char_p, S, P, P, P, P
)
linker_define_async_func = _function("wasmtime_linker_define_async_func", P, P, c_char_p, S, c_char_p, S, P, P, P, P)
linker_instantiate_async = _function("wasmtime_linker_instantiate_async", P, P, P, P, P, P, P)
instance_export_get = _function("wasmtime_instance_export_get", c_bool, P, P, c_char_p, S, P)
func_call_async = _function("wasmtime_func_call_async", P, P, P, P, S, P, S, P, P)
call_future_poll = _function("wasmtime_call_future_poll", c_bool, P)
call_future_delete = _function("wasmtime_call_future_delete", None, P)
memory_data = _function("wasmtime_memory_data", P, P, P)
memory_data_size = _function("wasmtime_memory_data_size", S, P, P)
memory_grow = _function("wasmtime_memory_grow", P, P, P, c_uint64, P)

SyncCallback = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_void_p, ctypes.POINTER(ffi.wasmtime_val_raw_t), c_size_t)
"""env, caller, arguments (which the result replaces), their number → a trap, always none."""

AsyncCallback = ffi.wasmtime_func_async_callback_t
ContinuationCallback = ffi.wasmtime_func_async_continuation_callback_t
Finalizer = ctypes.CFUNCTYPE(None, c_void_p)


def check(error: int | None, trap: int | None = None) -> None:
    """Raise GuestTrapped for what the C API reports. Both objects are ours to free: wasmtime-py's wrappers do it."""
    if trap:
        trapped = wasmtime.Trap._from_ptr(ctypes.cast(trap, ctypes.POINTER(ffi.wasm_trap_t)))
        raise GuestTrapped(_first_line(trapped.message))
    if error:
        reason = wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t)))
        raise GuestTrapped(_first_line(str(reason)))


def _first_line(text: str) -> str:
    """wasmtime's texts go on with a backtrace; its last line is the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if "wasm trap:" in line:
            return line.split("wasm trap:", 1)[1].strip().join(("wasm trap: ", ""))
    return lines[0] if lines else "unknown wasmtime error"
