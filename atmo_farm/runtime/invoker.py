"""The invoker: one host call does a whole message, and the sink's hooks reach the guest's memory through it.

Two kinds: for Runnables (allocate, copy, run_e, deallocate) and for WASI commands (`_start`, stdin to stdout).
Loads, stores and memory.copy check bounds themselves, unsigned, and trap: that ends the run of a guest which returns
what it does not have. WASI's functions answer EFAULT instead, as WASI says.
"""

from __future__ import annotations

from typing import Literal

from atmo_farm.runtime.layout import expand
from atmo_farm.runtime.sink import HOOKS

Interface = Literal["runnable", "wasi-command"]

EXPORTS: dict[Interface, tuple[str, ...]] = {
    "runnable": ("memory", "allocate", "deallocate", "run_e"),
    "wasi-command": ("memory", "_start"),
}
"""What is imported from the guest, in this order; then the sink's `io` and `hooks`."""

_COMMON = f"""
  (import "sink" "io" (memory $io 1))
  (import "sink" "hooks" (table $hooks {len(HOOKS)} funcref))
  (elem (table $hooks) (i32.const 0) func {" ".join("$" + name for name, _ in HOOKS)})

  (func $fits (param $ptr i32) (param $len i64) (result i32)     ;; in i64: a guest may pass any two numbers
    (i64.le_u (i64.add (i64.extend_i32_u (local.get $ptr)) (local.get $len))
              (i64.shl (i64.extend_i32_u (memory.size $guest)) (i64.const 16))))

  (func $reserve (param $len i32) (result i32) (local $at i32) (local $short i64)  ;; 0 when there is no room
    (local.set $at (i32.load $io @TOP))
    (local.set $short (i64.sub
      (i64.add (i64.extend_i32_u (local.get $at)) (i64.extend_i32_u (local.get $len)))
      (i64.shl (i64.extend_i32_u (memory.size $io)) (i64.const 16))))
    (if (i64.gt_s (local.get $short) (i64.const 0)) (then
      (if (i32.eq (i32.const -1) (memory.grow $io
            (i32.wrap_i64 (i64.shr_u (i64.add (local.get $short) (i64.const 65535)) (i64.const 16)))))
        (then (i32.store $io @FULL (i32.const 1)) (return (i32.const 0))))))
    (i32.store $io @TOP (i32.add (local.get $at) (local.get $len)))
    (local.get $at))

  (func $copy_out (param $ptr i32) (param $len i32) (result i32) (local $at i32)
    (if (i32.eqz (call $fits (local.get $ptr) (i64.extend_i32_u (local.get $len))))
      (then (drop (i32.load8_u $guest offset=1 (i32.const -1))) unreachable))  ;; out of bounds, before room is taken
    (local.set $at (call $reserve (local.get $len)))
    (if (i32.eqz (local.get $at)) (then unreachable))
    (memory.copy $io $guest (local.get $at) (local.get $ptr) (local.get $len))
    (local.get $at))

  (func $copy_in (param $ptr i32) (result i32) (local $len i32)
    (local.set $len (i32.load $io @PENDING_LEN))
    (if (i32.eq (local.get $len) #NO_PENDING) (then (return (i32.const -1))))
    (memory.copy $guest $io (local.get $ptr) (i32.load $io @PENDING_PTR) (local.get $len))
    (if (i32.eq (i32.load $io @TOP) (i32.add (i32.load $io @PENDING_PTR) (local.get $len)))
      (then (i32.store $io @TOP (i32.load $io @PENDING_PTR))))          ;; give its room back
    (i32.store $io @PENDING_LEN #NO_PENDING)
    (i32.const 0))

  (func $fd_write (param $fd i32) (param $iovs i32) (param $count i32) (param $written i32) (result i32)
    (local $ptr i32) (local $len i32) (local $room i32) (local $sum i32) (local $short i32)
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const 8))))
    (if (i32.eqz (i32.and (call $fits (local.get $written) (i64.const 4))
          (call $fits (local.get $iovs) (i64.shl (i64.extend_i32_u (local.get $count)) (i64.const 3)))))
      (then (return (i32.const 21))))
    (block $end (loop $next
      (br_if $end (i32.eqz (local.get $count)))
      (local.set $ptr (i32.load $guest (local.get $iovs)))
      (local.set $len (i32.load $guest offset=4 (local.get $iovs)))
      (if (i32.eqz (call $fits (local.get $ptr) (i64.extend_i32_u (local.get $len))))
        (then (return (i32.const 21))))
      (if (call $is_output (local.get $fd))
        (then
          (if (i32.eqz (call $reserve (local.get $len)))
            (then (local.set $short (i32.const 1)) (br $end)))
          (memory.copy $io $guest (i32.sub (i32.load $io @TOP) (local.get $len)) (local.get $ptr) (local.get $len))
          (i32.store $io @LEN (i32.sub (i32.load $io @TOP) (i32.load $io @PTR)))
          (if (local.get $len) (then (i32.store $io @KIND #RESULT))))
        (else
          (local.set $room (i32.sub #TEXT_CAP (i32.load $io @TEXT_LEN)))
          (if (i32.gt_u (local.get $len) (local.get $room)) (then
            (local.set $len (local.get $room))
            (local.set $short (i32.const 1))))
          (memory.copy $io $guest (i32.add #TEXT_AT (i32.load $io @TEXT_LEN)) (local.get $ptr) (local.get $len))
          (i32.store $io @TEXT_LEN (i32.add (i32.load $io @TEXT_LEN) (local.get $len)))))
      (local.set $sum (i32.add (local.get $sum) (local.get $len)))
      (br_if $end (local.get $short))
      (local.set $iovs (i32.add (local.get $iovs) (i32.const 8)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $next)))
    (if (i32.and (local.get $short) (i32.eqz (local.get $sum))) (then (return (i32.const 51))))
    (i32.store $guest (local.get $written) (local.get $sum))
    (i32.const 0))

  (func $fd_read (param $fd i32) (param $iovs i32) (param $count i32) (param $read i32) (result i32)
    (local $ptr i32) (local $len i32) (local $left i32) (local $sum i32)
    (if (local.get $fd) (then (return (i32.const 8))))
    (if (i32.eqz (i32.and (call $fits (local.get $read) (i64.const 4))
          (call $fits (local.get $iovs) (i64.shl (i64.extend_i32_u (local.get $count)) (i64.const 3)))))
      (then (return (i32.const 21))))
    (block $end (loop $next
      (local.set $left (i32.sub (i32.load $io @STDIN_END) (i32.load $io @STDIN_AT)))
      (br_if $end (i32.or (i32.eqz (local.get $count)) (i32.eqz (local.get $left))))
      (local.set $ptr (i32.load $guest (local.get $iovs)))
      (local.set $len (i32.load $guest offset=4 (local.get $iovs)))
      (if (i32.eqz (call $fits (local.get $ptr) (i64.extend_i32_u (local.get $len))))
        (then (return (i32.const 21))))
      (if (i32.gt_u (local.get $len) (local.get $left)) (then (local.set $len (local.get $left))))
      (memory.copy $guest $io (local.get $ptr) (i32.load $io @STDIN_AT) (local.get $len))
      (i32.store $io @STDIN_AT (i32.add (i32.load $io @STDIN_AT) (local.get $len)))
      (local.set $sum (i32.add (local.get $sum) (local.get $len)))
      (local.set $iovs (i32.add (local.get $iovs) (i32.const 8)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $next)))
    (i32.store $guest (local.get $read) (local.get $sum))
    (i32.const 0))

  (func $two_zeros (param $first i32) (param $second i32) (result i32)
    (if (i32.eqz (i32.and (call $fits (local.get $first) (i64.const 4)) (call $fits (local.get $second) (i64.const 4))))
      (then (return (i32.const 21))))
    (i32.store $guest (local.get $first) (i32.const 0))
    (i32.store $guest (local.get $second) (i32.const 0))
    (i32.const 0))

  (func $fd_fdstat_get (param $fd i32) (param $ptr i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (if (i32.eqz (call $fits (local.get $ptr) (i64.const 24))) (then (return (i32.const 21))))
    (memory.fill $guest (local.get $ptr) (i32.const 0) (i32.const 24))
    (i32.store8 $guest (local.get $ptr) (call $file_type (local.get $fd)))
    (i64.store $guest offset=8 (local.get $ptr)                    ;; rights: poll_fd_readwrite, fd_write or fd_read
      (select (i64.const 0x8000040) (i64.const 0x8000002) (local.get $fd)))
    (i32.const 0))

  (func $fd_filestat_get (param $fd i32) (param $ptr i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (if (i32.eqz (call $fits (local.get $ptr) (i64.const 64))) (then (return (i32.const 21))))
    (memory.fill $guest (local.get $ptr) (i32.const 0) (i32.const 64))
    (i32.store8 $guest offset=16 (local.get $ptr) (call $file_type (local.get $fd)))
    (i64.store $guest offset=24 (local.get $ptr) (i64.const 1))
    (i32.const 0))

  (func $clock_res_get (param $id i32) (param $ptr i32) (result i32)
    (if (i32.gt_u (local.get $id) (i32.const 1)) (then (return (i32.const 28))))
    (if (i32.eqz (call $fits (local.get $ptr) (i64.const 8))) (then (return (i32.const 21))))
    (i64.store $guest (local.get $ptr) (i64.const 1))
    (i32.const 0))

  (func $clear
    (i32.store $io @KIND (i32.const 0))
    (i32.store $io @LEN (i32.const 0))
    (i32.store $io @PENDING_LEN #NO_PENDING)
    (i32.store $io @STAGE #RUNNING)
    (i32.store $io @EXITED (i32.const 0))
    (i32.store $io @FULL (i32.const 0))
    (i32.store $io @NOTE (i32.const 0)))

  (func $end (local $status i32)
    (local.set $status (i32.add (i32.load $io @KIND) (i32.const 1)))
    (if (i32.or (i32.load $io @NOTE) (i32.or (i32.load $io @FULL) (i32.load $io @TEXT_LEN)))
      (then (local.set $status (i32.or (local.get $status) #STATUS_NOTED))))
    (if (i32.gt_u (memory.size $io) #RETAINED_PAGES)
      (then (local.set $status (i32.or (local.get $status) #STATUS_WORN))))
    (i32.store $io @STATUS (local.get $status)))
"""

_RUNNABLE = """(module $atmo_farm_invoker
  (import "guest" "memory" (memory $guest 0))
  (import "guest" "allocate" (func $allocate (param i32) (result i32)))
  (import "guest" "deallocate" (func $deallocate (param i32 i32)))
  (import "guest" "run_e" (func $run_e (param i32 i32 i32)))
%s
  (func $is_output (param i32) (result i32) (i32.const 0))
  (func $file_type (param i32) (result i32) (i32.const 2))       ;; a terminal: the C library then ends lines at once
  (func (export "call") (local $ptr i32) (local $len i32) (local $end i32)
    (call $clear)
    (local.set $len (i32.load $io @INPUT_LEN))
    (local.set $end (i32.add #DATA_AT (local.get $len)))
    (i32.store $io @TOP (local.get $end))
    (local.set $ptr (call $allocate (local.get $len)))
    (memory.copy $guest $io (local.get $ptr) #DATA_AT (local.get $len))
    (if (i32.eq (i32.load $io @TOP) (local.get $end))            ;; else allocate has left something behind the input
      (then (i32.store $io @TOP #DATA_AT)))
    (call $run_e (local.get $ptr) (local.get $len) (i32.load $io @IDENT))
    (i32.store $io @STAGE #RETURNED)                             ;; the result is safe: deallocate may trap now
    (if (i32.eqz (i32.load $io @SKIP_DEALLOCATE)) (then (call $deallocate (local.get $ptr) (local.get $len))))
    (i32.store $io @STAGE #DEALLOCATED)
    (call $end)))"""

_COMMAND = """(module $atmo_farm_invoker
  (import "guest" "memory" (memory $guest 0))
  (import "guest" "_start" (func $start))
%s
  (func $is_output (param $fd i32) (result i32) (i32.eq (local.get $fd) (i32.const 1)))
  (func $file_type (param i32) (result i32) (i32.const 0))       ;; unknown, as for a pipe: the C library buffers
  (func (export "call") (local $end i32)
    (call $clear)
    (local.set $end (i32.add #DATA_AT (i32.load $io @INPUT_LEN)))
    (i32.store $io @STDIN_AT #DATA_AT)
    (i32.store $io @STDIN_END (local.get $end))
    (i32.store $io @TOP (local.get $end))
    (i32.store $io @PTR (local.get $end))
    (call $start)
    (i32.store $io @STAGE #DEALLOCATED)
    (call $end)))"""


def source(interface: Interface) -> str:
    """The invoker for guests of this interface, as WAT."""
    return expand((_RUNNABLE if interface == "runnable" else _COMMAND) % _COMMON)
