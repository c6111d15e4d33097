"""Guests in WAT for the runtime's tests: small ones for one corner each, and a puppet that makes any host call."""

from __future__ import annotations

import struct

import wasmtime

from atmo_farm.runtime import abi

IMPORTS = """
  (import "env" "return_result" (func $result (param i32 i32 i32)))
  (import "env" "return_error" (func $error (param i32 i32 i32 i32)))
  (import "env" "return_abort" (func $abort (param i32 i32 i32 i32 i32 i32 i32)))
  (import "env" "get_ffi_result" (func $fetch (param i32 i32) (result i32)))"""

TEXT_AT = 4090
INPUT_AT = 4096


def assemble(text: str) -> bytes:
    """A module's bytes."""
    return bytes(wasmtime.wat2wasm(text))


def guest(
    body: str = "", *, imports: str = "", deallocate: str = "", memory: str = "4", items: str = "", data: str = "hello "
) -> bytes:
    """A Runnable with `body` as its run_e; the input is always at INPUT_AT, `data` at TEXT_AT."""
    return assemble(f"""(module {IMPORTS} {imports}
      (memory (export "memory") {memory}) (data (i32.const {TEXT_AT}) "{data}")
      (func (export "allocate") (param $size i32) (result i32)
        (if (i32.gt_u (i32.add (i32.const {INPUT_AT}) (local.get $size)) (i32.shl (memory.size) (i32.const 16)))
          (then (drop (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))))))
        (i32.const {INPUT_AT}))
      (func (export "deallocate") (param i32 i32) {deallocate})
      (func $run (export "run_e") (param $ptr i32) (param $len i32) (param $ident i32) (local $n i32)
        {body})
      {items})""")


def command(body: str, *, imports: str = "", items: str = "", memory: str = "4") -> bytes:
    """A WASI command with `body` as its `_start`; an iovec lies at 16 (8, 1000), spare words at 0, 4, 8."""
    return assemble(f"""(module {WASI_IO} {imports}
      (memory (export "memory") {memory})
      (data (i32.const 16) "\\40\\00\\00\\00\\e8\\03\\00\\00")
      (func $main (export "_start") (local $n i32) {body})
      {items})""")


WASI_IO = """
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"""

CACHE_GET = '(import "env" "cache_get" (func $cache_get (param i32 i32 i32) (result i32)))'

POLL = '(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))'


def subscription(userdata: int, tag: int, which: int, timeout: int = 0, flags: int = 0) -> str:
    """A subscription of poll_oneoff as WAT data; tag 0 is a clock (`which`, timeout in ns), 1 and 2 a descriptor."""
    packed = struct.pack("<QB7xI4xQQH6x", userdata, tag, which, timeout, 0, flags)
    return "".join(f"\\{byte:02x}" for byte in packed)


HELLO = guest(f"""(call $result (i32.const {TEXT_AT}) (i32.add (i32.const 6) (local.get $len)) (i32.const 0))
  (memory.fill (i32.const {INPUT_AT}) (i32.const 0) (local.get $len))""")
"""Answers `hello ` and its input, and wipes the answer at once."""

LOOP = guest("(loop (br 0))")

CACHED = guest(
    """
  (local.set $n (call $cache_get (local.get $ptr) (local.get $len) (local.get $ident)))
  (if (i32.eq (local.get $n) (i32.const -1)) (then (return)))
  (drop (call $fetch (i32.const 8192) (local.get $ident)))
  (if (i32.lt_s (local.get $n) (i32.const 0))
    (then (call $error (i32.const 404) (i32.const 8192) (i32.sub (i32.const 0) (local.get $n)) (local.get $ident)))
    (else (call $result (i32.const 8192) (local.get $n) (local.get $ident))))""",
    imports=CACHE_GET,
)
"""Answers what cache_get answers for its input; an error text becomes error 404, -1 no answer at all."""

CACHED_THEN_BUSY = guest(
    """
  (local.set $n (call $cache_get (local.get $ptr) (local.get $len) (local.get $ident)))
  (drop (call $fetch (i32.const 8192) (local.get $ident)))
  (local.set $len (i32.const 1000000))
  (loop (br_if 0 (local.tee $len (i32.sub (local.get $len) (i32.const 1)))))
  (call $result (i32.const 8192) (local.get $n) (local.get $ident))""",
    imports=CACHE_GET,
)
"""The same, and before it answers it computes for a millisecond or two."""

FUNCTIONS: list[tuple[str, str, str, str]] = [
    (abi.ENV, f"{name}{suffix}", parameters + more, results)
    for name, (parameters, results) in abi.RUNNABLE.items()
    for suffix, more in (("", ""), ("_swift", "ii"))
] + [(abi.WASI, name, parameters, "i") for name, parameters in abi.PREVIEW1.items()]
"""Every host function but proc_exit: module, name, parameters, results."""

NUMBERS = {name: number for number, (_, name, _, _) in enumerate(FUNCTIONS)}
WIDTH = 10
"""Words of 8 bytes for one call in the puppet's script: function, then up to nine arguments."""

PUPPET_MEMORY = 256 << 10
SCRIPT_AT = 128 << 10
COUNT_AT = PUPPET_MEMORY - 4
"""Where the puppet leaves how many calls its instance has made so far."""
COUNT = "(global.set $count (i32.add (global.get $count) (i32.const 1)))"


def _puppet() -> bytes:
    imports, cases = [], []
    for number, (module, name, parameters, results) in enumerate(FUNCTIONS):
        typed = " ".join("(param i32)" if letter == "i" else "(param i64)" for letter in parameters)
        result = "(result i32)" if results else ""
        imports.append(f'(import "{module}" "{name}" (func $f{number} {typed} {result}))')
        arguments = " ".join(
            f"({'i32' if letter == 'i' else 'i64'}.load offset={8 + 8 * index} (local.get $at))"
            for index, letter in enumerate(parameters)
        )
        call = f"(call $f{number} {arguments})"
        if results:
            call = f"(local.set $value {call})"
        cases.append(f"(if (i32.eq (local.get $which) (i32.const {number})) (then {call} {COUNT}))")
    return assemble(f"""(module {" ".join(imports)}
      (memory (export "memory") {PUPPET_MEMORY >> 16}) (global $count (mut i32) (i32.const 0))
      (func (export "allocate") (param i32) (result i32) (i32.const {SCRIPT_AT}))
      (func (export "deallocate") (param i32 i32))
      (func (export "run_e") (param $at i32) (param $len i32) (param $ident i32)
        (local $end i32) (local $which i32) (local $value i32)
        (local.set $end (i32.add (local.get $at) (local.get $len)))
        (loop $next
          (local.set $which (i32.load (local.get $at)))
          (local.set $value (i32.const 0x7fff0000))
          {" ".join(cases)}
          (i64.store (local.get $at) (i64.extend_i32_u (local.get $value)))
          (local.set $at (i32.add (local.get $at) (i32.const {8 * WIDTH})))
          (br_if $next (i32.lt_u (local.get $at) (local.get $end))))
        (i32.store (i32.const {COUNT_AT}) (global.get $count))
        (call $f{NUMBERS["return_result"]} (i32.const 0) (i32.const {PUPPET_MEMORY}) (local.get $ident))))""")


PUPPET = _puppet()
"""Its input is a script of host calls; its result is its whole memory afterwards, each call's number at its place."""

NO_RESULT = 0x7FFF0000


def script(*calls: tuple[object, ...]) -> bytes:
    """The input that makes PUPPET do these calls: (name, arguments …)."""
    words = b""
    for name, *arguments in calls:
        numbers = [NUMBERS[str(name)], *(int(str(argument)) for argument in arguments)]
        numbers += [0] * (WIDTH - len(numbers))
        words += struct.pack(f"<{WIDTH}Q", *(number & 0xFFFFFFFFFFFFFFFF for number in numbers))
    return words


def answers(memory: bytes, count: int) -> list[int]:
    """What the calls of the script returned, as signed i32; NO_RESULT for those that return nothing."""
    return [struct.unpack_from("<i", memory, SCRIPT_AT + 8 * WIDTH * index)[0] for index in range(count)]
