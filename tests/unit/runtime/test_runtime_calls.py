"""What a call gives: results, errors, aborts, traps; how instances start; who frees the input."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import wat_guests as wat
from laboratory import Laboratory, in_lab

from atmo_farm.errors import GuestOutOfMemory, GuestTimedOut, GuestTrapped, RunnableError


def test_a_result_is_taken_at_return_result(cache_dir: Path) -> None:
    """The guest wipes its answer right after return_result."""

    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.HELLO)
        for name in (b"bob", b"", b"x" * 100_000, b"eve"):
            assert await lab.call(function, name) == b"hello " + name

    in_lab(cache_dir, scene)


def test_a_large_message_passes_and_its_instance_is_not_kept(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.HELLO, pool_warm=0)
        big = bytes(range(256)) * 12_000
        assert await lab.call(function, big) == b"hello " + big
        assert function.instances == 0

    in_lab(cache_dir, scene)


def test_nothing_returned_is_none_and_an_empty_result_is_empty(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        assert await lab.run(wat.guest()) is None
        assert await lab.run(wat.guest("(call $result (i32.const 0) (i32.const 0) (i32.const 0))")) == b""

    in_lab(cache_dir, scene)


RESULT = f"(call $result (i32.const {wat.TEXT_AT}) (i32.const 5) (i32.const 0))"
ERROR = f"(call $error (i32.const 418) (i32.const {wat.TEXT_AT}) (i32.const 5) (i32.const 0))"
OTHER_ERROR = f"(call $error (i32.const -7) (i32.const {wat.TEXT_AT}) (i32.const 2) (i32.const 0))"
ABORT = (
    f"(call $abort (i32.const {wat.TEXT_AT}) (i32.const 5) (local.get $ptr) (local.get $len)"
    " (i32.const 7) (i32.const -9) (i32.const 0))"
)
ABORT_TEXT = "runnable abort: hello; file: a.ts, line: 7, col: -9"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (ERROR, 418, "hello"),
        (RESULT + ERROR, 418, "hello"),
        (ERROR + RESULT, 418, "hello"),
        (ERROR + OTHER_ERROR, 418, "hello"),
        (OTHER_ERROR, -7, "he"),
        (ABORT, -1, ABORT_TEXT),
        (ABORT + "unreachable", -1, ABORT_TEXT),
        (ERROR + ABORT, 418, "hello"),
        (ABORT + ERROR, -1, ABORT_TEXT),
    ],
)
def test_the_first_error_wins_over_all(cache_dir: Path, body: str, code: int, message: str) -> None:
    async def scene(lab: Laboratory) -> None:
        with pytest.raises(RunnableError) as caught:
            await lab.run(wat.guest(body), b"a.ts")
        assert (caught.value.code, caught.value.message) == (code, message)

    in_lab(cache_dir, scene)


def test_the_last_result_wins(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        second = f"(call $result (i32.const {wat.TEXT_AT}) (i32.const 2) (i32.const 0))"
        assert await lab.run(wat.guest(RESULT + second)) == b"he"

    in_lab(cache_dir, scene)


def test_an_instance_is_good_after_the_guests_own_error_and_gone_after_a_trap(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        body = f"(if (i32.eqz (local.get $len)) (then unreachable)) {ERROR}"
        function = lab.function(wat.guest(body), pool_warm=0)
        with pytest.raises(RunnableError):
            await lab.call(function, b"x")
        assert function.instances == 1
        with pytest.raises(GuestTrapped, match=r"unreachable.* in run"):
            await lab.call(function)
        assert function.instances == 0
        with pytest.raises(RunnableError):
            await lab.call(function, b"x")

    in_lab(cache_dir, scene)


def test_a_result_before_a_trap_does_not_count(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        with pytest.raises(GuestTrapped):
            await lab.run(wat.guest(RESULT + "unreachable"))

    in_lab(cache_dir, scene)


@pytest.mark.parametrize("place", ["(i32.const -16) (i32.const 64)", "(i32.const 0) (i32.const -1)"])
def test_a_result_outside_of_the_memory_is_a_trap(cache_dir: Path, place: str) -> None:
    async def scene(lab: Laboratory) -> None:
        with pytest.raises(GuestTrapped, match="out of bounds"):
            await lab.run(wat.guest(f"(call $result {place} (i32.const 0))"))

    in_lab(cache_dir, scene)


def test_a_result_that_ends_behind_4_gib_is_outside_of_the_memory(cache_dir: Path) -> None:
    """Where the guest has all that 32 bits can name, -1 is a place in it."""

    async def scene(lab: Laboratory) -> None:
        grow = "(if (i32.eq (memory.grow (i32.const 65532)) (i32.const -1)) (then (return)))"
        for size, fits in ((8, True), (9, False), (-1, False)):
            body = f"{grow} (call $result (i32.const -8) (i32.const {size}) (i32.const 0))"
            call = lab.run(wat.guest(body), memory_limit=4 << 30)
            if fits:
                assert await call == bytes(8)
            else:
                with pytest.raises(GuestTrapped, match="out of bounds"):
                    await call

    in_lab(cache_dir, scene)


def test_a_guest_that_frees_its_own_input_keeps_its_result(cache_dir: Path) -> None:
    """deallocate traps once; later instances are not asked to."""

    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.guest(RESULT, deallocate="unreachable"), pool_warm=0)
        assert await lab.call(function) == b"hello"
        assert function.instances == 0
        for _ in range(3):
            assert await lab.call(function) == b"hello"
            assert function.instances == 1

    in_lab(cache_dir, scene)


def test_start_functions_run_once_in_their_order(cache_dir: Path) -> None:
    """Start section, _initialize, _start, init; then every call sees what they left."""

    def step(name: str, digit: int) -> str:
        export = "" if name == "section" else f'(export "{name}")'
        return (
            f"(func ${name} {export}"
            f" (i32.store8 (global.get $at) (i32.const {48 + digit}))"
            " (global.set $at (i32.add (global.get $at) (i32.const 1))))"
        )

    items = f"""(global $at (mut i32) (i32.const {wat.TEXT_AT})) (start $section)
      {step("section", 1)} {step("_initialize", 2)} {step("_start", 3)} {step("init", 4)}"""

    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.guest(RESULT, items=items))
        for _ in range(3):
            assert await lab.call(function) == b"1234o"

    in_lab(cache_dir, scene)


def test_init_with_parameters_is_somebody_elses(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        assert await lab.run(wat.guest(RESULT, items='(func (export "init") (param i32) unreachable)')) == b"hello"

    in_lab(cache_dir, scene)


def test_start_may_end_with_exit_status_0_only(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        start = '(func (export "_start") (call $exit (i32.const {})))'
        assert await lab.run(wat.guest(RESULT, imports=wat.WASI_IO, items=start.format(0))) == b"hello"
        with pytest.raises(GuestTrapped, match="while it started: exit status 3"):
            await lab.run(wat.guest(RESULT, imports=wat.WASI_IO, items=start.format(3)))

    in_lab(cache_dir, scene)


def test_exit_status_0_of_one_start_function_is_not_the_next_ones(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        items = """(func (export "_initialize") (call $exit (i32.const 0)))
          (func (export "_start") (local $n i32) (local.set $n (i32.div_u (local.get $n) (local.get $n))))"""
        with pytest.raises(GuestTrapped, match="while it started: trap: integer divide by zero"):
            await lab.run(wat.guest(RESULT, imports=wat.WASI_IO, items=items))

    in_lab(cache_dir, scene)


def test_allocate_may_call_the_host(cache_dir: Path) -> None:
    """What it gets and returns is laid down beside the input, which the host has not handed over yet."""
    module = wat.assemble(f"""(module {wat.IMPORTS}
      (import "env" "request_get_field" (func $get (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (data (i32.const 100) "key")
      (func (export "allocate") (param i32) (result i32)
        (drop (call $get (i32.const 0) (i32.const 100) (i32.const 3) (i32.const 0)))
        (drop (call $fetch (i32.const 200) (i32.const 0)))
        (drop (call $get (i32.const 0) (i32.const 100) (i32.const 2) (i32.const 0)))
        (call $result (i32.const 100) (i32.const 3) (i32.const 0))
        (i32.const 1000))
      (func (export "deallocate") (param i32 i32))
      (func (export "run_e") (param $ptr i32) (param $len i32) (param i32)
        (if (i32.eqz (local.get $len)) (then (return)))
        (call $result (local.get $ptr) (local.get $len) (i32.const 0))
        (drop (call $fetch (local.get $ptr) (i32.const 0)))
        (call $result (local.get $ptr) (local.get $len) (i32.const 0))))""")

    async def scene(lab: Laboratory) -> None:
        function = lab.function(module)
        for data, expected in ((b"the first message", b"KEe first message"), (b"second", b"KEcond"), (b"", b"key")):
            assert await lab.call(function, data) == expected

    in_lab(cache_dir, scene)


def test_exports_may_be_imports(cache_dir: Path) -> None:
    """`run_e` is return_result, `allocate` a function of WASI: no way around the checks of either."""
    module = wat.assemble("""(module (import "env" "return_result" (func $result (param i32 i32 i32)))
      (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
      (memory (export "memory") 1) (export "allocate" (func $close)) (export "run_e" (func $result))
      (func (export "deallocate") (param i32 i32)))""")

    async def scene(lab: Laboratory) -> None:
        function = lab.function(module)
        for data in (b"", b"echo", bytes(range(256)) * 8):
            assert await lab.call(function, data) == data

    in_lab(cache_dir, scene)


def test_what_cannot_be_instantiated_is_a_failed_run(cache_dir: Path) -> None:
    """Not an internal error: nobody would try the message again."""

    async def scene(lab: Laboratory) -> None:
        with pytest.raises(GuestTrapped, match=r"could not be instantiated: .*table"):
            await lab.run(wat.guest(items="(table 1 funcref)" * 40))

    in_lab(cache_dir, scene)


def test_an_error_text_is_cut(cache_dir: Path) -> None:
    """It goes into logs and headers: the guest's 60 MiB of broken UTF-8 are never made a str."""

    async def scene(lab: Laboratory) -> None:
        size = 60 << 20
        fill = f"(memory.fill (i32.const 65536) (i32.const 255) (i32.const {size}))"
        place = f"(i32.const 65536) (i32.const {size})"
        for body in (
            f"(call $error (i32.const 1) {place} (i32.const 0))",
            f"(call $abort (i32.const {wat.TEXT_AT}) (i32.const 5) {place} (i32.const 0) (i32.const 0) (i32.const 0))",
        ):
            with pytest.raises(RunnableError) as caught:
                await lab.run(wat.guest(fill + body, memory="1000"), timeout=20)
            assert 60_000 < len(caught.value.message) < 70_000

    in_lab(cache_dir, scene)


def test_a_start_section_may_call_the_host(cache_dir: Path) -> None:
    """As AssemblyScript's do: abort and fd_write at top level reach the user."""

    async def scene(lab: Laboratory) -> None:
        abort = f"""(func $s (call $abort (i32.const {wat.TEXT_AT}) (i32.const 5) (i32.const {wat.TEXT_AT})
            (i32.const 2) (i32.const 1) (i32.const 2) (i32.const 0)) unreachable) (start $s)"""
        with pytest.raises(GuestTrapped, match="while it started: runnable abort: hello; file: he, line: 1, col: 2"):
            await lab.run(wat.guest(RESULT, items=abort))
        log = '(import "env" "log_msg" (func $log (param i32 i32 i32 i32)))'
        prints = f"""(func $s (i32.store (i32.const 16) (i32.const {wat.TEXT_AT}))
            (i32.store (i32.const 20) (i32.const 5))
            (drop (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 0)))
            (call $log (i32.const {wat.TEXT_AT}) (i32.const 5) (i32.const 1) (i32.const 0))) (start $s)"""
        assert await lab.run(wat.guest(RESULT, imports=wat.WASI_IO + log, items=prints)) == b"hello"
        assert lab.services.output == "hello"
        assert lab.services.calls == [], "there is no message yet that the line could belong to"

    in_lab(cache_dir, scene)


@pytest.mark.alone
def test_an_endless_start_function_is_killed_at_the_calls_deadline(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        for items in ("(func $s (loop (br 0))) (start $s)", '(func (export "init") (loop (br 0)))'):
            function = lab.function(wat.guest(RESULT, items=items))
            began = time.monotonic()
            with pytest.raises(GuestTimedOut):
                await lab.call(function, timeout=0.1)
            assert 0.1 <= time.monotonic() - began < 0.5
            assert function.instances == 0

    in_lab(cache_dir, scene)


def test_exit_in_a_run(cache_dir: Path) -> None:
    """Status 0 after an answer is a clean end; everything else is a failed run."""

    async def scene(lab: Laboratory) -> None:
        for body, expected in [
            (RESULT + "(call $exit (i32.const 0))", b"hello"),
            ("(call $exit (i32.const 0))", "exit status 0"),
            (RESULT + "(call $exit (i32.const 2))", "exit status 2"),
        ]:
            function = lab.function(wat.guest(body, imports=wat.WASI_IO), pool_warm=0)
            if isinstance(expected, bytes):
                assert await lab.call(function) == expected
            else:
                with pytest.raises(GuestTrapped, match=expected):
                    await lab.call(function)
            assert function.instances == 0

    in_lab(cache_dir, scene)


def test_a_deadline_that_has_passed_runs_nothing(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.HELLO)
        with pytest.raises(GuestTimedOut, match="not started"):
            await function.call(b"", lab.services, time.monotonic())
        assert function.instances == 0

    in_lab(cache_dir, scene)


def test_the_guests_allocate_is_not_trusted(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        for at in (-1, -(2**31), 4 << 16, (4 << 16) - 1):
            module = wat.assemble(f"""(module (memory (export "memory") 4)
              (func (export "allocate") (param i32) (result i32) (i32.const {at}))
              (func (export "deallocate") (param i32 i32)) (func (export "run_e") (param i32 i32 i32)))""")
            with pytest.raises(GuestTrapped, match="out of bounds"):
                await lab.run(module, b"xy")

    in_lab(cache_dir, scene)


def test_an_input_over_the_memory_limit_is_a_clean_error(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.HELLO, memory_limit=1 << 20, pool_warm=0)
        with pytest.raises(GuestOutOfMemory, match="its input does not fit"):
            await lab.call(function, bytes(2 << 20))
        assert await lab.call(function, b"bob") == b"hello bob"

    in_lab(cache_dir, scene)


def test_a_segment_that_does_not_fit_is_a_trap(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        with pytest.raises(GuestTrapped, match="out of bounds"):
            await lab.run(wat.guest(items='(data (i32.const 262143) "too long")'))

    in_lab(cache_dir, scene)
