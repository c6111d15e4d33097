"""WASI preview1 as guests see it, and WASI commands from stdin to stdout."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import pytest
import wat_guests as wat
from laboratory import Laboratory, in_lab
from wat_guests import PUPPET, PUPPET_MEMORY, answers, script

from atmo_farm.errors import GuestOutOfMemory, GuestTrapped, RunnableError

BADF, FAULT, INVAL, NOSPC, SPIPE = 8, 21, 28, 51, 70


async def play(lab: Laboratory, *calls: tuple[Any, ...]) -> tuple[list[int], bytes]:
    memory = await lab.run(PUPPET, script(*calls))
    assert memory is not None
    return answers(memory, len(calls)), memory


def test_what_start_up_code_asks(cache_dir: Path) -> None:
    """No arguments, no environment, three descriptors, nothing preopened."""

    async def scene(lab: Laboratory) -> None:
        returned, memory = await play(
            lab,
            ("args_sizes_get", 0, 4),
            ("args_get", 0, 4),
            ("environ_sizes_get", 8, 12),
            ("environ_get", 0, 4),
            ("fd_prestat_get", 3, 100),
            ("fd_prestat_dir_name", 3, 100, 10),
            ("fd_fdstat_get", 0, 200),
            ("fd_fdstat_get", 1, 300),
            ("fd_fdstat_get", 3, 400),
            ("fd_filestat_get", 2, 500),
            ("fd_fdstat_set_flags", 1, 4),
            ("fd_close", 1),
            ("fd_close", 3),
            ("fd_seek", 1, 0, 0, 600),
            ("path_open", 3, 0, 0, 1, 0, 0, 0, 0, 600),
            ("sched_yield",),
            ("sock_recv", 3, 0, 0, 0, 0, 0),
        )
        assert returned == [0, 0, 0, 0, BADF, BADF, 0, 0, BADF, 0, 0, 0, BADF, SPIPE, BADF, 0, BADF]
        assert memory[:16] == bytes(16)
        assert struct.unpack_from("<BxHxxxxQQ", memory, 300) == (2, 0, (1 << 27) | (1 << 6), 0)
        assert struct.unpack_from("<BxHxxxxQQ", memory, 200) == (2, 0, (1 << 27) | (1 << 1), 0)
        assert memory[516] == 2
        assert memory[400:424] == bytes(24)

    in_lab(cache_dir, scene)


def test_clocks_and_randomness(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        returned, memory = await play(
            lab,
            ("clock_time_get", 0, 1, 0),
            ("clock_time_get", 1, 1, 8),
            ("clock_time_get", 2, 1, 16),
            ("clock_res_get", 1, 24),
            ("clock_res_get", 9, 24),
            ("random_get", 1000, 64),
            ("random_get", 0, 0),
            ("random_get", 1000, PUPPET_MEMORY),
        )
        assert returned == [0, 0, INVAL, 0, INVAL, 0, 0, FAULT]
        wall, monotonic, _, resolution = struct.unpack_from("<QQQQ", memory)
        assert abs(wall - time.time_ns()) < 5e9
        assert abs(monotonic - time.monotonic_ns()) < 5e9
        assert resolution == 1
        assert len(set(memory[1000:1064])) > 30

    in_lab(cache_dir, scene)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fd_write", (1, -8, 1, 0)),
        ("fd_write", (1, 0, 0x20000001, 0)),
        ("fd_write", (1, 0, 0, PUPPET_MEMORY - 3)),
        ("fd_read", (0, PUPPET_MEMORY - 7, 1, 0)),
        ("fd_read", (0, 0, 0, -1)),
        ("args_sizes_get", (-1, 0)),
        ("environ_sizes_get", (0, PUPPET_MEMORY - 3)),
        ("fd_fdstat_get", (1, PUPPET_MEMORY - 23)),
        ("fd_filestat_get", (1, PUPPET_MEMORY - 63)),
        ("clock_res_get", (0, -4)),
        ("clock_time_get", (0, 0, PUPPET_MEMORY - 7)),
        ("random_get", (-1, 2)),
        ("random_get", (0, -1)),
        ("poll_oneoff", (-1, 0, 1, 0)),
        ("poll_oneoff", (0, PUPPET_MEMORY - 31, 1, 0)),
        ("poll_oneoff", (0, 0, 1, PUPPET_MEMORY - 3)),
    ],
)
def test_pointers_outside_of_the_memory_are_efault(cache_dir: Path, name: str, arguments: tuple[int, ...]) -> None:
    async def scene(lab: Laboratory) -> None:
        assert (await play(lab, (name, *arguments)))[0] == [FAULT]

    in_lab(cache_dir, scene)


WRITE = f"""
  (i32.store (i32.const 16) (i32.const {wat.INPUT_AT})) (i32.store (i32.const 20) (local.get $len))
  (local.set $n (call $fd_write (i32.const {{fd}}) (i32.const 16) (i32.const 1) (i32.const 0)))
  (i32.store8 (i32.const {wat.TEXT_AT}) (local.get $n))
  (i32.store (i32.const 32) (i32.load (i32.const 0)))"""
ANSWER = f"(call $result (i32.const {wat.TEXT_AT}) (i32.const 1) (i32.const 0))"


def test_what_a_runnable_prints_goes_to_the_log(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        for fd in (1, 2):
            function = lab.function(wat.guest(WRITE.format(fd=fd) + ANSWER, imports=wat.WASI_IO))
            lab.services.output = ""
            assert await lab.call(function, b"a line\nand more") == b"\0"
            assert lab.services.output == "a line\nand more"
            assert await lab.call(function, b"next") == b"\0"
            assert lab.services.output == "a line\nand morenext"
        assert await lab.run(wat.guest(WRITE.format(fd=0) + ANSWER, imports=wat.WASI_IO), b"x") == bytes([BADF])

    in_lab(cache_dir, scene)


def test_output_before_a_trap_is_not_lost(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        for end in ("unreachable", "(loop (br 0))"):
            lab.services.output = ""
            with pytest.raises(Exception, match=r"trap|deadline"):
                await lab.run(wat.guest(WRITE.format(fd=2) + end, imports=wat.WASI_IO), b"last words", timeout=0.1)
            assert lab.services.output == "last words"

    in_lab(cache_dir, scene)


def test_output_past_its_cap_is_enospc(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        module = wat.guest(WRITE.format(fd=1) * 2 + ANSWER, imports=wat.WASI_IO)
        function = lab.function(module)
        assert await lab.call(function, b"x" * 40_000) == bytes([NOSPC])
        assert 32_000 < len(lab.services.output) < 32_768
        lab.services.output = ""
        assert await lab.call(function, b"x") == b"\0"
        assert lab.services.output == "xx", "the room is there again in the next run"

    in_lab(cache_dir, scene)


def test_stdin_of_a_runnable_is_empty(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        body = """(i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 100))
          (i32.store (i32.const 0) (i32.const 77))
          (drop (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 0)))
          (call $result (i32.const 0) (i32.const 4) (i32.const 0))"""
        assert await lab.run(wat.guest(body, imports=wat.WASI_IO), b"input") == bytes(4)

    in_lab(cache_dir, scene)


ECHO = """(loop $again
    (i32.store (i32.const 20) (i32.const 1000))
    (drop (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 0)))
    (i32.store (i32.const 20) (i32.load (i32.const 0)))
    (drop (call $fd_write (i32.const {fd}) (i32.const 16) (i32.const 1) (i32.const 4)))
    (br_if $again (i32.load (i32.const 0))))"""


def test_a_command_answers_from_stdin_to_stdout(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        for end in ("", "(call $exit (i32.const 0))"):
            function = lab.function(wat.command(ECHO.format(fd=1) + end), "wasi-command", pool_warm=0)
            for data in (b"hello", bytes(range(256)) * 500, b"y"):
                assert await lab.call(function, data) == data
            assert await lab.call(function, b"") is None
            assert function.instances == 0
            assert lab.services.output == ""

    in_lab(cache_dir, scene)


def test_a_commands_stderr_is_its_log_and_its_exit_status_an_error(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        module = wat.command(ECHO.format(fd=2) + "(call $exit (i32.const 3))")
        with pytest.raises(RunnableError, match=r"^exit status 3: no such thing$") as caught:
            await lab.call(lab.function(module, "wasi-command"), b"first\nno such thing\n")
        assert caught.value.code == 500
        assert lab.services.output == "first\nno such thing\n"

    in_lab(cache_dir, scene)


def test_a_command_that_traps_or_writes_too_much(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        with pytest.raises(GuestTrapped, match="unreachable"):
            await lab.call(lab.function(wat.command(ECHO.format(fd=1) + "unreachable"), "wasi-command"), b"x")
        flood = """(i32.store (i32.const 20) (i32.const 200000)) (local.set $n (i32.const 20))
          (loop $again (drop (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 0)))
            (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"""
        for end in ("", "(call $exit (i32.const 0))"):
            function = lab.function(wat.command(flood + end), "wasi-command", memory_limit=1 << 20)
            with pytest.raises(GuestOutOfMemory, match="stdout"):
                await lab.call(function)

    in_lab(cache_dir, scene)


def test_fresh_commands_share_nothing(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        count = """(global.set $count (i32.add (global.get $count) (i32.const 1)))
          (i32.store8 (i32.const 64) (i32.add (i32.const 48) (global.get $count)))
          (i32.store (i32.const 20) (i32.const 1))
          (drop (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 0)))"""
        function = lab.function(wat.command(count, items="(global $count (mut i32) (i32.const 0))"), "wasi-command")
        for _ in range(20):
            assert await lab.call(function) == b"1"

    in_lab(cache_dir, scene)


def poller(count: int, *subscriptions: str) -> bytes:
    """Polls and answers errno (1 byte), the number of events (4) and the first two events."""
    body = f"""(i32.store8 (i32.const 999) (call $poll (i32.const {wat.TEXT_AT}) (i32.const 1004) (i32.const {count})
        (i32.const 1000))) (call $result (i32.const 999) (i32.const 69) (i32.const 0))"""
    return wat.guest(body, imports=wat.POLL, data="".join(subscriptions))


def test_sleep_suspends_the_guest_only(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        ms = 1_000_000
        for flags in (0, 1):
            timeout = 50 * ms + flags * time.monotonic_ns()
            module = poller(2, wat.subscription(7, 0, 1, timeout, flags), wat.subscription(8, 0, 1, 10**18))
            began = time.monotonic()
            answer = await lab.run(module)
            assert answer is not None
            assert 0.02 < time.monotonic() - began < 1
            errno, events = struct.unpack_from("<BI", answer)
            assert (errno, events) == (0, 1)
            assert struct.unpack_from("<QHB", answer, 5) == (7, 0, 0)

    in_lab(cache_dir, scene)


def test_descriptors_are_ready_at_once(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        answer = await lab.run(
            poller(3, wat.subscription(1, 1, 0), wat.subscription(2, 2, 9), wat.subscription(3, 0, 1, 10**18))
        )
        assert answer is not None
        assert struct.unpack_from("<BI", answer) == (0, 2)
        assert struct.unpack_from("<QHB", answer, 5) == (1, 0, 1)
        assert struct.unpack_from("<QHB", answer, 37) == (2, BADF, 2)
        for count in (0, 1025):
            answer = await lab.run(poller(count, wat.subscription(1, 1, 0)))
            assert answer is not None
            assert answer[0] == INVAL

    in_lab(cache_dir, scene)
