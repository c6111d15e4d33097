"""The sink: the functions that a guest imports and that need no Python, as a Wasm module of our own.

    sink ────── io (memory), hooks (table), return_result …, fd_write …
      ↑ imports what is exported here
    guest
      ↑ imports memory, allocate, run_e …
    invoker ─── fills the hooks with functions that reach the guest's memory, and makes the calls

The sink has to exist before the guest and the invoker after it; hence the table between them.
A result is valid only during return_result (the guest may free it right after), so it is copied at once.
"""

from __future__ import annotations

from atmo_farm.runtime import abi
from atmo_farm.runtime.layout import expand

HOOKS = (
    ("copy_out", "ii"),
    ("copy_in", "i"),
    ("fd_write", "iiii"),
    ("fd_read", "iiii"),
    ("two_zeros", "ii"),
    ("fd_fdstat_get", "ii"),
    ("fd_filestat_get", "ii"),
    ("clock_res_get", "ii"),
)
"""The invoker's functions in the table, in this order, with their parameters; each has one i32 as result."""

BADF, INVAL, NOSYS, NOTSUP, SPIPE = 8, 28, 52, 58, 70

_HOOKED = {
    "fd_write": "fd_write",
    "fd_read": "fd_read",
    "fd_fdstat_get": "fd_fdstat_get",
    "fd_filestat_get": "fd_filestat_get",
    "clock_res_get": "clock_res_get",
    "args_sizes_get": "two_zeros",
    "environ_sizes_get": "two_zeros",
}
"""WASI functions that read or write the guest's memory: function → hook."""

_CONSTANT = {"args_get": 0, "environ_get": 0, "sched_yield": 0, "proc_raise": NOSYS}
"""WASI functions with one answer: there are no arguments and no environment, and another run gets its turn anyway."""

_STANDARD = {
    "fd_close": 0,
    "fd_sync": 0,
    "fd_datasync": 0,
    "fd_fdstat_set_flags": 0,
    "fd_fdstat_set_rights": 0,
    "fd_seek": SPIPE,
    "fd_tell": SPIPE,
    "fd_pread": SPIPE,
    "fd_pwrite": SPIPE,
    "fd_advise": SPIPE,
    "fd_filestat_set_size": INVAL,
    "fd_filestat_set_times": NOTSUP,
    "fd_allocate": NOTSUP,
    "fd_renumber": NOTSUP,
}
"""What descriptors 0, 1 and 2 answer; for all others, and for all functions that are named nowhere here, it is BADF."""

_RETURNS = """
  (func $take (param $kind i32) (param $code i32) (param $ptr i32) (param $len i32)
    (if (i32.gt_u (i32.load @KIND) (i32.const 1)) (then return))  ;; the first error wins
    (i32.store @PTR (call $copy_out (local.get $ptr) (local.get $len)))
    (i32.store @KIND (local.get $kind))
    (i32.store @CODE (local.get $code))
    (i32.store @LEN (local.get $len)))
  (func $abort (param $msg i32) (param $msg_len i32) (param $file i32) (param $file_len i32)
               (param $line i32) (param $column i32)
    (if (i32.gt_u (i32.load @KIND) (i32.const 1)) (then return))
    (i32.store @FILE_PTR (call $copy_out (local.get $file) (local.get $file_len)))
    (i32.store @FILE_LEN (local.get $file_len))
    (i32.store @LINE (local.get $line))
    (i32.store @COLUMN (local.get $column))
    (call $take (i32.const 3) (i32.const -1) (local.get $msg) (local.get $msg_len)))"""

_RETURN_BODIES = {
    "return_result": "(call $take (i32.const 1) (i32.const 0) (local.get 0) (local.get 1))",
    "return_error": "(call $take (i32.const 2) (local.get 0) (local.get 1) (local.get 2))",
    "return_abort": f"(call $abort {' '.join(f'(local.get {index})' for index in range(6))})",
    "get_ffi_result": "(call $copy_in (local.get 0))",
}

_PROC_EXIT = """
  (func (export "proc_exit") (param $code i32)
    (i32.store @EXITED (i32.const 1))
    (i32.store @EXIT_CODE (local.get $code))
    unreachable)"""


def exported(module: str, name: str) -> bool:
    """Whether the sink answers this import; the rest of the ABI is answered by Python."""
    if module == abi.WASI:
        return name not in abi.WASI_HOST
    return name.removesuffix("_swift") in abi.SINK


def source() -> str:
    """The sink as WAT."""
    parts = [f'(module $atmo_farm_sink\n  (table $hooks (export "hooks") {len(HOOKS)} funcref)']
    parts.append('(memory (export "io") 1 65535)')
    for index, (name, parameters) in enumerate(HOOKS):
        arguments = " ".join(f"(local.get {number})" for number in range(len(parameters)))
        parts.append(
            f"(type $t_{name} (func {_typed(parameters)} (result i32)))"
            f"(func ${name} {_typed(parameters)} (result i32)"
            f" (call_indirect $hooks (type $t_{name}) {arguments} (i32.const {index})))"
        )
    parts.append(_RETURNS)
    for name, body in _RETURN_BODIES.items():
        parameters, results = abi.RUNNABLE[name]
        for suffix, more in (("", ""), ("_swift", "ii")):
            result = "(result i32)" if results else ""
            parts.append(f'(func (export "{name}{suffix}") {_typed(parameters + more)} {result} {body})')
    parts.append(_PROC_EXIT)
    parts += [_wasi(name, parameters) for name, parameters in abi.PREVIEW1.items() if name not in abi.WASI_HOST]
    return expand("\n  ".join(parts) + ")")


def _wasi(name: str, parameters: str) -> str:
    if name in _HOOKED:
        arguments = " ".join(f"(local.get {number})" for number in range(len(parameters)))
        body = f"(call ${_HOOKED[name]} {arguments})"
    elif name in _CONSTANT:
        body = f"(i32.const {_CONSTANT[name]})"
    elif name in _STANDARD:
        standard = f"(i32.const {_STANDARD[name]})"
        body = f"(select {standard} (i32.const {BADF}) (i32.le_u (local.get 0) (i32.const 2)))"
    else:
        body = f"(i32.const {BADF})"
    return f'(func (export "{name}") {_typed(parameters)} (result i32) {body})'


def _typed(letters: str) -> str:
    return " ".join("(param i32)" if letter == "i" else "(param i64)" for letter in letters)
