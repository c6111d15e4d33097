"""Guests that want too much: memory, tables, stack, answers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import wat_guests as wat
from laboratory import Laboratory, in_lab

from atmo_farm.errors import AtmoFarmError, GuestOutOfMemory, GuestTrapped
from atmo_farm.runtime import abi, wasm
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.function import Function
from atmo_farm.runtime.modules import compile_module

GROW_ALL = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))"
ANSWER_SIZE = """(i32.store (i32.const 0) (memory.size)) (call $result (i32.const 0) (i32.const 4) (i32.const 0))"""


def resident_kib() -> int:
    """The process's resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError


def test_memory_grow_stops_at_the_limit(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        answer = await lab.run(wat.guest(GROW_ALL + ANSWER_SIZE), memory_limit=8 << 20)
        assert answer is not None
        assert (8 << 20) - (1 << 20) <= int.from_bytes(answer, "little") << 16 <= 8 << 20

    in_lab(cache_dir, scene)


def test_a_memory_bomb_is_a_clean_error_and_its_memory_comes_back(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        size = "(i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 8192))"
        fill = f"(memory.fill (i32.const 8192) (i32.const 1) {size})"
        function = lab.function(wat.guest(GROW_ALL + fill + "unreachable"), memory_limit=32 << 20)
        before = resident_kib()
        for _ in range(10):
            with pytest.raises(GuestOutOfMemory, match=r"of its 32 MiB"):
                await lab.call(function)
        assert resident_kib() - before < 64 << 10

    in_lab(cache_dir, scene)


def test_a_module_that_starts_over_its_limit_does_not_start(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        with pytest.raises(GuestOutOfMemory, match="needs 131072000 bytes of memory to start"):
            lab.function(wat.guest(memory="2000"))
        with pytest.raises(GuestOutOfMemory, match="needs 1000000 elements of tables to start"):
            lab.function(wat.guest(items="(table 1000000 funcref)"))

    in_lab(cache_dir, scene)


def test_a_table_bomb_stops_at_the_limit(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        body = """(loop $more (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 65536)) (i32.const -1))))
          (i32.store (i32.const 0) (table.size $t)) (call $result (i32.const 0) (i32.const 4) (i32.const 0))"""
        answer = await lab.run(wat.guest(body, items="(table $t 0 funcref)"))
        assert answer == (1 << 18).to_bytes(4, "little")
        many = " ".join("(table 1 funcref)" for _ in range(40))
        with pytest.raises(AtmoFarmError, match="table"):
            await lab.run(wat.guest(items=many))

    in_lab(cache_dir, scene)


def test_deep_recursion_is_a_trap(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        again = "(call $run (i32.const 0) (i32.const 0) (i32.const 0)) (local.set $n (memory.size))"
        function = lab.function(wat.guest(again))
        for _ in range(5):
            with pytest.raises(GuestTrapped, match="call stack exhausted"):
                await lab.call(function)

    in_lab(cache_dir, scene)


def test_deep_guests_may_call_the_host(cache_dir: Path) -> None:
    """Host functions run on the guest's fiber: there is stack left for Python at the guest's deepest."""

    async def scene(lab: Laboratory) -> None:
        log = '(import "env" "log_msg" (func $log (param i32 i32 i32 i32)))'
        body = """(call $log (i32.const 4090) (i32.const 5) (i32.const 1) (i32.const 0))
          (call $run (i32.const 0) (i32.const 0) (i32.const 0)) (local.set $n (memory.size))"""

        def deep(level: int) -> int:
            return deep(level - 1) + 1 if level else 0

        services = lab.services
        original = services.log_msg
        services.log_msg = lambda *message: (deep(400), sorted([3, 1], key=lambda _: deep(100)), original(*message))[0]  # type: ignore[method-assign,assignment,func-returns-value]
        with pytest.raises(GuestTrapped, match="call stack exhausted"):
            await lab.run(wat.guest(body, imports=log), timeout=60)
        assert len(services.calls) > 1000

    in_lab(cache_dir, scene)


def test_a_result_over_the_limit_is_a_clean_error(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        many = "(local.set $n (i32.const 40)) (loop $more" + (
            "(call $result (i32.const 0) (i32.const 100000) (i32.const 0))"
            "(br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))"
        )
        with pytest.raises(GuestOutOfMemory, match="its result does not fit"):
            await lab.run(wat.guest(many), memory_limit=1 << 20)

    in_lab(cache_dir, scene)


def test_a_function_larger_than_the_process_was_made_for_is_refused(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        engine = Engine(memory_reservation=1 << 20)
        with pytest.raises(AtmoFarmError, match="more than this process's 1048576"):
            Function(engine, compile_module(wat.HELLO, cache_dir), memory_limit=2 << 20)
        engine.close()

    in_lab(cache_dir, scene)


def test_a_minimal_limit_serves_small_messages(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(
            wat.guest("(call $result (i32.const 4090) (i32.const 5) (i32.const 0))", memory="1"), memory_limit=1 << 16
        )
        assert await lab.call(function, b"x" * 1000) == b"hello"
        with pytest.raises(GuestOutOfMemory):
            await lab.call(function, b"x" * 40_000)

    in_lab(cache_dir, scene)


@pytest.mark.parametrize(
    "name", ["log_msg", "resp_set_header", "fetch_url", "graphql_query", "db_exec", "cache_set", "request_set_field"]
)
def test_a_guest_cannot_make_python_read_for_long(cache_dir: Path, name: str) -> None:
    """A text over its cap is not read at all: 60 MiB of broken UTF-8 would hold the loop for seconds."""
    size = 60 << 20
    arguments = {
        "log_msg": "{text} (i32.const 1)",
        "resp_set_header": f"(i32.const {wat.TEXT_AT}) (i32.const 5) {{text}}",
        "fetch_url": f"(i32.const 0) {{text}} (i32.const {wat.TEXT_AT}) (i32.const 5)",
        "graphql_query": f"(i32.const {wat.TEXT_AT}) (i32.const 5) {{text}}",
        "db_exec": "(i32.const 1) {text}",
        "cache_set": f"(i32.const {wat.TEXT_AT}) (i32.const 5) {{text}} (i32.const 0)",
        "request_set_field": f"(i32.const 4) (i32.const {wat.TEXT_AT}) (i32.const 5) {{text}}",
    }[name].format(text=f"(i32.const 65536) (i32.const {size})")
    parameters, results = abi.RUNNABLE[name]
    types = f"(param {'i32 ' * len(parameters)}) {'(result i32)' * len(results)}"
    call = f"(call $f {arguments} (i32.const 0))"
    body = f"""(memory.fill (i32.const 65536) (i32.const 255) (i32.const {size}))
      {f"(drop {call})" if results else call} (call $result (i32.const 0) (i32.const 0) (i32.const 0))"""

    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.guest(body, imports=f'(import "env" "{name}" (func $f {types}))', memory="1000"))
        assert await lab.call(function, timeout=20) == b""
        assert lab.services.calls == []

    in_lab(cache_dir, scene)


def test_texts_up_to_their_cap_are_read(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        await lab.run(
            wat.PUPPET,
            wat.script(
                ("log_msg", 0, 65_537, 1, 0),
                ("log_msg", 0, 65_536, 1, 0),
                ("fetch_url", 0, 0, 65_536, 0, 0, 0),
                ("graphql_query", 0, 1, 0, wat.PUPPET_MEMORY, 0),
            ),
        )
        assert [call[0] for call in lab.services.calls] == ["log_msg", "fetch_url", "graphql_query"]

    in_lab(cache_dir, scene)


def test_a_guests_function_names_do_not_swell_the_report_of_its_trap(cache_dir: Path) -> None:
    """wasmtime copies the name of each frame when a guest traps: 20 MB a name would be 400 MB and seconds."""
    trap = wat.assemble("""(module (memory (export "memory") 1) (func (export "allocate") (param i32) (result i32)
      (i32.const 0)) (func (export "deallocate") (param i32 i32))
      (func (export "run_e") (param i32 i32 i32)
        (call 2 (i32.const 0) (i32.const 0) (i32.const 0)) (drop (memory.size))))""")

    def named(module: bytes, function: bytes) -> bytes:
        subsections = b""
        for number, content in (
            (0, wasm._leb(len(module)) + module),
            (1, b"\1\2" + wasm._leb(len(function)) + function),
        ):
            subsections += bytes([number]) + wasm._leb(len(content)) + content
        return trap + wasm._section(0, b"\4name" + subsections)

    async def scene(lab: Laboratory) -> None:
        with pytest.raises(GuestTrapped, match=r"call stack exhausted in plain < plain < plain$"):
            await lab.run(named(b"m", b"plain"))
        with pytest.raises(GuestTrapped) as caught:
            await lab.run(named(b"m", b"x" * 900))
        assert len(str(caught.value)) < 500
        for module in (named(b"m", b"x" * (20 << 20)), named(b"m" * (20 << 20), b"x")):
            assert compile_module(module, cache_dir).path.stat().st_size < 1 << 20
            function = lab.function(module)
            await function.warm()
            began = time.monotonic()
            with pytest.raises(GuestTrapped, match="call stack exhausted"):
                await lab.call(function)
            assert time.monotonic() - began < 1

    in_lab(cache_dir, scene)
