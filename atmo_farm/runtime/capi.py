"""The functions of wasmtime's public C API that the runtime calls itself, declared with plain addresses.

wasmtime-py brings the library and the structures. Its own objects cost 30-150 µs a call, and it has no fibers. A
`POINTER` type would build an object for every argument and result, so addresses are integers here. Each function is a
new object (`dll[name]`): `dll.name` is the bindings' own, whose types must not change.

What runs a guest is called through a `CDLL`, which lets go of the GIL: else the epoch ticker could not tick, and an
endless guest would be for ever. The short calls that run no guest keep the GIL (`PyDLL`), which saves its hand-over.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, addressof, c_bool, c_char_p, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any

from wasmtime import _ffi as ffi

from atmo_farm.errors import AtmoFarmError

P, S = c_void_p, c_size_t
_gil_free = ffi.dll
_gil_kept = ctypes.PyDLL("libwasmtime", handle=ffi.dll._handle)


class WasmtimeError(AtmoFarmError):
    """What the library reports when it refuses something: its own words."""


def _function(library: Any, name: str, restype: Any, *argtypes: Any) -> Callable[..., Any]:
    function: Any = library[name]
    function.restype, function.argtypes = restype, argtypes
    return function  # type: ignore[no-any-return]


config_new = _function(_gil_free, "wasm_config_new", P)
pooling_config_new = _function(_gil_free, "wasmtime_pooling_allocation_config_new", P)
pooling_config_delete = _function(_gil_free, "wasmtime_pooling_allocation_config_delete", None, P)
pooling_strategy_set = _function(_gil_free, "wasmtime_pooling_allocation_strategy_set", None, P, P)
engine_new_with_config = _function(_gil_free, "wasm_engine_new_with_config", P, P)
engine_delete = _function(_gil_free, "wasm_engine_delete", None, P)
increment_epoch = _function(_gil_free, "wasmtime_engine_increment_epoch", None, P)
functype_delete = _function(_gil_free, "wasm_functype_delete", None, P)
module_new = _function(_gil_free, "wasmtime_module_new", P, P, c_char_p, S, P)
module_validate = _function(_gil_free, "wasmtime_module_validate", P, P, c_char_p, S)
module_serialize = _function(_gil_free, "wasmtime_module_serialize", P, P, P)
module_deserialize_file = _function(_gil_free, "wasmtime_module_deserialize_file", P, P, c_char_p, P)
module_delete = _function(_gil_free, "wasmtime_module_delete", None, P)
linker_new = _function(_gil_free, "wasmtime_linker_new", P, P)
linker_delete = _function(_gil_free, "wasmtime_linker_delete", None, P)
linker_define_sync = _function(
    _gil_free, "wasmtime_linker_define_func_unchecked", P, P, c_char_p, S, c_char_p, S, P, P, P, P
)
linker_define_async = _function(
    _gil_free, "wasmtime_linker_define_async_func", P, P, c_char_p, S, c_char_p, S, P, P, P, P
)

store_new = _function(_gil_kept, "wasmtime_store_new", P, P, P, P)
store_context = _function(_gil_kept, "wasmtime_store_context", P, P)
store_limiter = _function(_gil_kept, "wasmtime_store_limiter", None, P, c_int64, c_int64, c_int64, c_int64, c_int64)
store_delete = _function(_gil_kept, "wasmtime_store_delete", None, P)
linker_get = _function(_gil_kept, "wasmtime_linker_get", c_bool, P, P, c_char_p, S, c_char_p, S, P)
instance_new = _function(_gil_kept, "wasmtime_instance_new", P, P, P, P, S, P, P)
instance_export_get = _function(_gil_kept, "wasmtime_instance_export_get", c_bool, P, P, c_char_p, S, P)
set_epoch_deadline = _function(_gil_kept, "wasmtime_context_set_epoch_deadline", None, P, c_uint64)
# The bindings declare an error as its result; the library returns nothing, and what is read there is garbage.
epoch_async_yield = _function(_gil_kept, "wasmtime_context_epoch_deadline_async_yield_and_update", None, P, c_uint64)
memory_data = _function(_gil_kept, "wasmtime_memory_data", P, P, P)
memory_data_size = _function(_gil_kept, "wasmtime_memory_data_size", S, P, P)
memory_grow = _function(_gil_kept, "wasmtime_memory_grow", P, P, P, c_uint64, P)
call_async = _function(_gil_kept, "wasmtime_func_call_async", P, P, P, P, S, P, S, P, P)
future_poll = _function(_gil_free, "wasmtime_call_future_poll", c_bool, P)
future_delete = _function(_gil_kept, "wasmtime_call_future_delete", None, P)
trap_code = _function(_gil_kept, "wasmtime_trap_code", c_bool, P, P)
trap_message = _function(_gil_kept, "wasm_trap_message", None, P, P)
trap_delete = _function(_gil_kept, "wasm_trap_delete", None, P)
error_message = _function(_gil_kept, "wasmtime_error_message", None, P, P)
error_delete = _function(_gil_kept, "wasmtime_error_delete", None, P)
bytes_delete = _function(_gil_kept, "wasm_byte_vec_delete", None, P)

SyncCallback = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_void_p, POINTER(c_uint32), c_size_t)
"""env, caller, arguments and results in one array of 16-byte values, their number → a trap, always none."""

AsyncCallback = ctypes.CFUNCTYPE(
    None, c_void_p, c_void_p, POINTER(c_uint32), c_size_t, POINTER(c_uint32), c_size_t, c_void_p, POINTER(c_uint64)
)
"""env, caller, arguments, their number, results, their number, trap, continuation (callback, env, finalizer).

A value is 32 bytes: kind (0 is i32) at 0, the number at 8.
"""

Continuation = ctypes.CFUNCTYPE(c_bool, c_void_p)

EXTERN_SIZE = ctypes.sizeof(ffi.wasmtime_extern_t)
EXTERN_OF = ffi.wasmtime_extern_t.of.offset


def functype(parameters: str, results: str) -> int:
    """A new function type, of letters as in `abi`; the caller deletes it."""
    from wasmtime import FuncType, ValType

    kinds = {"i": ValType.i32, "I": ValType.i64}
    kept = FuncType([kinds[letter]() for letter in parameters], [kinds[letter]() for letter in results])
    copied = _function(_gil_free, "wasm_functype_copy", P, P)(ctypes.cast(kept.ptr(), P).value)
    return int(copied)


def address(callback: Any) -> int:
    """Where C finds a callback; whoever made it must keep it, C keeps only the number."""
    return ctypes.cast(callback, P).value or 0


def take_bytes(fill: Callable[[int], Any]) -> bytes:
    """The bytes that a C function writes into a wasm_byte_vec_t, which is then given back."""
    vector = ffi.wasm_byte_vec_t()
    fill(addressof(vector))
    size = int(vector.size)
    data = ctypes.string_at(vector.data, size) if size else b""
    bytes_delete(addressof(vector))
    return data


def check(error: int | None) -> None:
    """Raise WasmtimeError for an error that the library returned, and free it."""
    if error:
        text = take_bytes(lambda at: error_message(error, at)).decode("utf-8", "replace")
        error_delete(error)
        raise WasmtimeError(text)


def take_trap(trap: int) -> tuple[int | None, str]:
    """The code (None: not one of wasmtime's own) and the text of a trap, which is freed."""
    code = c_uint8()
    known = trap_code(trap, addressof(code))
    text = take_bytes(lambda at: trap_message(trap, at)).rstrip(b"\0").decode("utf-8", "replace")
    trap_delete(trap)
    return (code.value if known else None), text
