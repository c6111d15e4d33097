"""How instances are made, shared, waited for, replaced and let go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import wat_guests as wat
from laboratory import FakeServices, Laboratory, in_lab, settle

from atmo_farm.errors import AtmoFarmError, GuestTimedOut, GuestTrapped
from atmo_farm.runtime import pool
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.function import Function
from atmo_farm.runtime.modules import compile_module

REMEMBERS = wat.guest(
    """(if (local.get $len) (then (i32.store8 (i32.const 0) (i32.load8_u (local.get $ptr)))))
        (call $result (i32.const 0) (i32.const 1) (i32.const 0))"""
)
"""Keeps the first byte of its input; an empty input asks for what is kept."""


class Gate:
    """Services whose answers come when the test says so."""

    def __init__(self) -> None:
        self.waits: list[asyncio.Future[bytes]] = []
        self.keys: list[str] = []

    def __call__(self, _: str, key: str) -> asyncio.Future[bytes]:
        self.keys.append(key)
        self.waits.append(asyncio.get_running_loop().create_future())
        return self.waits[-1]


def test_warm_makes_the_warm_ones_and_calls_use_the_last_one_first(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(REMEMBERS, pool_warm=3)
        assert function.instances == 0
        await function.warm()
        assert function.instances == 3
        await lab.call(function, b"a")
        assert await lab.call(function) == b"a"
        assert function.instances == 3

    in_lab(cache_dir, scene)


def test_the_pool_grows_to_its_maximum_and_then_calls_wait_in_order(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        gate = Gate()
        lab.services = FakeServices(gate)
        function = lab.function(wat.CACHED, pool_max=2)
        calls = [asyncio.ensure_future(lab.call(function, str(number).encode())) for number in range(6)]
        await settle()
        assert function.instances == 2
        assert gate.keys == ["0", "1"]
        done = []
        for number in range(6):
            gate.waits[number].set_result(b"done")
            assert await calls[number] == b"done"
            done.append(number)
            await settle()
            assert gate.keys == [str(key) for key in range(min(6, number + 3))]
            assert function.instances == 2

    in_lab(cache_dir, scene)


def test_a_newcomer_does_not_overtake_those_that_wait(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        gate = Gate()
        lab.services = FakeServices(gate)
        function = lab.function(wat.CACHED, pool_max=1)
        first, second = (asyncio.ensure_future(lab.call(function, key)) for key in (b"1", b"2"))
        await settle()
        gate.waits[0].set_result(b"done")
        await first
        third = asyncio.ensure_future(lab.call(function, b"3"))
        await settle()
        assert gate.keys == ["1", "2"]
        gate.waits[1].set_result(b"done")
        await second
        await settle()
        gate.waits[2].set_result(b"done")
        await third

    in_lab(cache_dir, scene)


def test_waiting_for_an_instance_ends_at_the_deadline_or_with_a_cancel(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        gate = Gate()
        lab.services = FakeServices(gate)
        function = lab.function(wat.CACHED, pool_max=1)
        holder = asyncio.ensure_future(lab.call(function, b"1"))
        await settle()
        with pytest.raises(GuestTimedOut, match="all 1 instances"):
            await lab.call(function, b"2", timeout=0.05)
        gone = asyncio.ensure_future(lab.call(function, b"3"))
        patient = asyncio.ensure_future(lab.call(function, b"4"))
        await settle()
        gone.cancel()
        await settle()
        gate.waits[0].set_result(b"done")
        await settle()
        assert gate.keys == ["1", "4"]
        patient.cancel()
        await settle()
        assert function.instances <= 1
        last = asyncio.ensure_future(lab.call(function, b"5"))
        await settle()
        gate.waits[2].set_result(b"done")
        assert await last == b"done"
        assert await holder == b"done"

    in_lab(cache_dir, scene)


def test_one_that_is_cancelled_just_when_its_turn_comes_passes_it_on(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        for break_first in (False, True):
            gate = Gate()
            lab.services = FakeServices(gate)
            function = lab.function(wat.CACHED, pool_max=1)
            holder, unlucky, heir = (asyncio.ensure_future(lab.call(function, key)) for key in (b"1", b"2", b"3"))
            await settle()
            if break_first:
                holder.cancel()
            else:
                gate.waits[0].set_result(b"done")
            holder.add_done_callback(lambda _, unlucky=unlucky: unlucky.cancel())
            await asyncio.wait([holder, unlucky])
            await settle()
            assert gate.keys[-1] == "3"
            gate.waits[-1].set_result(b"heir")
            assert await heir == b"heir"

    in_lab(cache_dir, scene)


def test_a_used_up_instance_is_replaced_ahead_of_the_next_message(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.guest("unreachable"))
        with pytest.raises(GuestTrapped):
            await lab.call(function)
        assert function.instances == 0
        await settle()
        assert function.instances == 1

    in_lab(cache_dir, scene)


def test_all_used_up_instances_are_replaced(cache_dir: Path) -> None:
    """Also when several end in one turn of the loop."""

    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.HELLO, isolation="fresh", pool_warm=4)
        await function.warm()
        for _ in range(4):
            assert await lab.call(function, b"bob") == b"hello bob"
        assert function.instances == 0
        for _ in range(3):
            await settle()
        assert function.instances == 4

    in_lab(cache_dir, scene)


def test_a_guest_that_cannot_start_is_not_tried_for_ever(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(wat.guest(items='(func (export "init") unreachable)'), pool_max=1)
        for _ in range(3):
            with pytest.raises(GuestTrapped, match="while it started"):
                await lab.call(function)
            await settle()
            assert function.instances == 0
        with pytest.raises(GuestTrapped):
            await function.warm()

    in_lab(cache_dir, scene)


@pytest.mark.fault(row="fresh-isolation")
@pytest.mark.timeout(900)
def test_fresh_isolation_lets_no_message_see_another(
    cache_dir: Path, amount: Callable[[int, int], int], figure: Callable[[str, object], None]
) -> None:
    """No message finds what the one before left in its instance's memory."""
    pairs = amount(500, 50_000)

    async def scene(lab: Laboratory) -> None:
        shared, fresh = lab.function(REMEMBERS), lab.function(REMEMBERS, isolation="fresh", pool_warm=2)
        await lab.call(shared, b"s")
        assert await lab.call(shared) == b"s", "pooled instances remember: that is what the others must not"
        await fresh.warm()
        for _ in range(pairs):
            assert await lab.call(fresh, b"s") == b"s"
            assert await lab.call(fresh) == b"\0"
            await asyncio.sleep(0)
        await settle()
        assert fresh.instances == 2

    in_lab(cache_dir, scene)
    figure("messages", 2 * pairs)


SOILS = wat.guest(
    """(drop (memory.grow (i32.const 60)))
        (memory.fill (i32.const 0) (i32.const 0xaa) (i32.const 0x400000))
        (drop (table.grow $t (ref.func $run) (i32.const 1000)))
        (if (local.get $len) (then unreachable))""",
    items="(table $t 4 funcref) (elem declare func $run)",
)
"""Fills 4 MiB of memory and a table, and traps if it has any input."""
LOOKS = wat.guest(
    """(local $sum i64)
        (drop (memory.grow (i32.const 60)))
        (drop (table.grow $t (ref.null func) (i32.const 1000)))
        (loop $next
          (if (i32.or (i32.lt_u (local.get $n) (i32.const 4088)) (i32.gt_u (local.get $n) (i32.const 4103)))
            (then (local.set $sum (i64.or (local.get $sum) (i64.load (local.get $n))))))
          (local.set $n (i32.add (local.get $n) (i32.const 8)))
          (br_if $next (i32.lt_u (local.get $n) (i32.const 0x400000))))
        (local.set $n (i32.const 0))
        (loop $next
          (if (i32.eqz (ref.is_null (table.get $t (local.get $n)))) (then (local.set $sum (i64.const -1))))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $n) (i32.const 1004))))
        (i64.store (i32.const 0) (local.get $sum))
        (call $result (i32.const 0) (i32.const 8) (i32.const 0))""",
    items="(table $t 4 funcref)",
)
"""Answers with the bits that are set in 4 MiB of memory (but for its own data); all of them if a table has an entry."""


@pytest.mark.parametrize("first", [b"", b"and trap"])
def test_an_instance_finds_nothing_of_the_one_whose_room_it_has(cache_dir: Path, first: bytes) -> None:
    """Also of another function's, also of one that trapped: room is cleared before it is used again."""

    async def scene(lab: Laboratory) -> None:
        engine = Engine(instances=1, tables=2)
        soils, looks = (
            Function(engine, compile_module(wasm, cache_dir), isolation="fresh", pool_warm=0, pool_max=1)
            for wasm in (SOILS, LOOKS)
        )
        for _ in range(20):
            if first:
                with pytest.raises(GuestTrapped):
                    await lab.call(soils, first)
            else:
                await lab.call(soils)
            assert await lab.call(looks) == bytes(8)
        engine.close()

    in_lab(cache_dir, scene)


def test_instances_over_warm_go_when_they_are_not_used(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEPT_IDLE_S", 0.05)

    async def scene(lab: Laboratory) -> None:
        gate = Gate()
        lab.services = FakeServices(gate)
        function = lab.function(wat.CACHED, pool_max=10)
        calls = [asyncio.ensure_future(lab.call(function, b"k")) for _ in range(10)]
        await settle()
        for wait in gate.waits:
            wait.set_result(b"done")
        await asyncio.gather(*calls)
        assert function.instances == 10
        until = time.monotonic() + 5
        while function.instances > 1 and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert function.instances == 1

    in_lab(cache_dir, scene)


def test_closing_while_calls_are_under_way(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        gate = Gate()
        lab.services = FakeServices(gate)
        function = lab.function(wat.CACHED, pool_max=1)
        running, waiting = (asyncio.ensure_future(lab.call(function, b"k")) for _ in range(2))
        await settle()
        function.close()
        function.close()
        gate.waits[0].set_result(b"done")
        assert await running == b"done"
        with pytest.raises(AtmoFarmError, match="closed"):
            await waiting
        assert function.instances == 0
        with pytest.raises(AtmoFarmError, match="closed"):
            await lab.call(function)

    in_lab(cache_dir, scene)


SLEEPS = wat.guest(
    "(call $result (local.get $ptr) (local.get $len) (i32.const 0))",
    imports=wat.POLL,
    items=f"""(func (export "init")
      (drop (call $poll (i32.const {wat.TEXT_AT}) (i32.const 0) (i32.const 1) (i32.const 0))))""",
    data=wat.subscription(1, 0, 1, 20_000_000),
)
"""Its start function sleeps for 20 ms."""


async def until_gone(function: Function) -> None:
    """Wait until the closed function's last instance is thrown away, and its linker with it."""
    until = time.monotonic() + 5
    while function.instances and time.monotonic() < until:
        await asyncio.sleep(0.005)
    assert function.instances == 0
    assert not function._pool.idle


def test_a_call_gets_the_instance_that_warm_was_making(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(SLEEPS, pool_max=1)
        warm = asyncio.ensure_future(function.warm())
        await settle()
        assert await lab.call(function, b"bob") == b"bob"
        await warm

    in_lab(cache_dir, scene)


def test_closing_while_warm_makes_an_instance(cache_dir: Path) -> None:
    """What is then made goes away; the function's linker is freed once, and nothing is made from it afterwards."""

    async def scene(lab: Laboratory) -> None:
        function = lab.function(SLEEPS, pool_warm=2)
        warm = asyncio.ensure_future(function.warm())
        await settle()
        function.close()
        with pytest.raises(AtmoFarmError, match="closed"):
            await warm
        await until_gone(function)
        for late in (function.warm(), lab.call(function)):
            with pytest.raises(AtmoFarmError, match="closed"):
                await late
        assert function.instances == 0

    in_lab(cache_dir, scene)


def test_closing_while_a_call_makes_its_instance(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(SLEEPS)
        call = asyncio.ensure_future(lab.call(function, b"bob"))
        await settle()
        function.close()
        with pytest.raises(AtmoFarmError, match="closed"):
            await call
        await until_gone(function)

    in_lab(cache_dir, scene)


def test_closing_just_before_a_spare_is_made(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        for turns in range(4):
            function = lab.function(wat.guest("unreachable"))
            with pytest.raises(GuestTrapped):
                await lab.call(function)
            for _ in range(turns):
                await asyncio.sleep(0)
            function.close()
            await until_gone(function)

    in_lab(cache_dir, scene)
