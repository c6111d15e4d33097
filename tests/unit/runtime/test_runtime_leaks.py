"""Nothing grows: 20,000 calls of each kind, thousands of stores, traps, kills."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import wat_guests as wat
from laboratory import FakeServices, Laboratory, in_lab

from atmo_farm.errors import AtmoFarmError
from atmo_farm.runtime import waiting

CALLS = int(os.environ.get("ATMO_TEST_CALLS", "20000"))
ANSWER = f"(call $result (i32.const {wat.TEXT_AT}) (i32.const 5) (i32.const 0))"
TIDY = wat.assemble(f"""(module {wat.IMPORTS}
  (memory (export "memory") 4) (global $top (mut i32) (i32.const 4096)) (global $live (mut i32) (i32.const 0))
  (func (export "allocate") (param $size i32) (result i32)
    (if (global.get $live) (then unreachable))                  ;; the one before was never freed
    (global.set $live (i32.const 1)) (i32.const 4096))
  (func $free (export "deallocate") (param i32 i32)
    (if (i32.eqz (global.get $live)) (then unreachable))        ;; freed twice
    (global.set $live (i32.const 0)))
  (func (export "run_e") (param $ptr i32) (param $len i32) (param $ident i32)
    (call $result (local.get $ptr) (local.get $len) (i32.const 0))))""")
OWNER = wat.assemble(f"""(module {wat.IMPORTS}
  (memory (export "memory") 4) (global $live (mut i32) (i32.const 0))
  (func (export "allocate") (param $size i32) (result i32)
    (if (global.get $live) (then unreachable)) (global.set $live (i32.const 1)) (i32.const 4096))
  (func $free (export "deallocate") (param i32 i32)
    (if (i32.eqz (global.get $live)) (then unreachable)) (global.set $live (i32.const 0)))
  (func (export "run_e") (param $ptr i32) (param $len i32) (param $ident i32)
    (call $result (local.get $ptr) (local.get $len) (i32.const 0))
    (call $free (local.get $ptr) (local.get $len))))""")


def resident_kib() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


async def repeat(call: Callable[[], Awaitable[object]], count: int) -> None:
    """Warm up with a tenth, then the rest must not grow the process."""
    for _ in range(count // 10):
        await call()
    memory, maps, files = resident_kib(), mappings(), descriptors()
    for _ in range(count):
        await call()
    assert resident_kib() - memory < 2048
    assert mappings() - maps < 50
    assert descriptors() == files
    assert not waiting._waits


@pytest.mark.parametrize("module", [TIDY, OWNER], ids=["host frees", "guest frees"])
def test_input_is_freed_exactly_once(cache_dir: Path, module: bytes) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(module)

        async def call() -> None:
            assert await lab.call(function, b"input") == b"input"

        await repeat(call, CALLS)
        assert function.instances == 1

    in_lab(cache_dir, scene)


def test_host_calls_leave_nothing(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.CACHED)
        lab.services = FakeServices(lambda *_: b"value")

        async def at_once() -> None:
            assert await lab.call(function, b"key") == b"value"
            lab.services.calls.clear()

        await repeat(at_once, CALLS)

        async def answer() -> bytes:
            await asyncio.sleep(0)
            return b"value"

        lab.services = FakeServices(lambda *_: answer())
        await repeat(at_once, CALLS // 4)

    in_lab(cache_dir, scene)


@pytest.mark.parametrize("body", [ANSWER, "unreachable", "(call $exit (i32.const 1))"], ids=["result", "trap", "exit"])
def test_fresh_stores_leave_nothing(cache_dir: Path, body: str) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.guest(body, imports=wat.WASI_IO), isolation="fresh")

        async def call() -> None:
            try:
                await lab.call(function, b"x" * 10_000)
            except AtmoFarmError:
                assert body != ANSWER

        await repeat(call, CALLS // 5)

    in_lab(cache_dir, scene)


def test_killed_guests_leave_nothing(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        never: list[asyncio.Future[bytes]] = []

        def wait(*_: object) -> asyncio.Future[bytes]:
            never[:] = [asyncio.get_running_loop().create_future()]
            return never[0]

        lab.services = FakeServices(wait)
        function = lab.function(wat.CACHED)

        async def call() -> None:
            task = asyncio.ensure_future(lab.call(function, b"k"))
            while not never:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            never.clear()
            lab.services.calls.clear()

        await repeat(call, CALLS // 10)

    in_lab(cache_dir, scene)


def test_engines_end_their_threads(cache_dir: Path) -> None:
    before = threading.active_count()

    async def scene(lab: Laboratory) -> None:
        await lab.run(wat.HELLO)
        assert threading.active_count() == before + 1

    for _ in range(3):
        in_lab(cache_dir, scene)
    assert threading.active_count() == before
