"""Guests that compute for long, wait in crowds, or are cut off: the loop goes on and nothing is left behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import threading
import time
from pathlib import Path

import pytest
import wat_guests as wat
from laboratory import FakeServices, Laboratory, in_lab, settle

from atmo_farm.consumer import eager
from atmo_farm.errors import GuestTimedOut, HostError
from atmo_farm.runtime import capi, ticker

LATE_S = 0.1
"""What a test allows for another process that has the machine; the benchmarks hold the real figures."""


@pytest.mark.alone
@pytest.mark.parametrize("count", [1, 10])
def test_endless_guests_beside_others(cache_dir: Path, count: int) -> None:
    """Each is killed at its deadline and not before; short calls and timers of the loop go on meanwhile."""

    async def scene(lab: Laboratory) -> None:
        endless, hello = lab.function(wat.LOOP), lab.function(wat.HELLO)
        lates: list[float] = []
        gaps: list[float] = []

        async def run() -> None:
            began = time.monotonic()
            with pytest.raises(GuestTimedOut, match="computing"):
                await lab.call(endless, timeout=0.3)
            lates.append(time.monotonic() - began - 0.3)

        async def others() -> None:
            while len(lates) < count:
                began = time.monotonic()
                assert await lab.call(hello, b"bob") == b"hello bob"
                await asyncio.sleep(0.005)
                gaps.append(time.monotonic() - began - 0.005)

        await asyncio.gather(others(), *(run() for _ in range(count)))
        assert min(lates) >= 0
        assert max(lates) < LATE_S
        assert sorted(gaps)[len(gaps) // 2] < 0.03
        assert len(gaps) > 5
        assert lab.engine.scheduler.busy == lab.engine.scheduler.woken or not lab.engine.scheduler.woken

    in_lab(cache_dir, scene)


def test_a_thousand_guests_wait_at_once_in_one_thread(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        async def answer() -> bytes:
            await asyncio.sleep(0.1)
            return b"value"

        lab.services = FakeServices(lambda *_: answer())
        function = lab.function(wat.CACHED, pool_max=1000)
        threads = set(threading.enumerate())
        began = time.monotonic()
        answers = await asyncio.gather(*(lab.call(function, b"k", timeout=20) for _ in range(1000)))
        assert set(answers) == {b"value"}
        assert function.instances == 1000
        assert time.monotonic() - began < 5
        assert set(threading.enumerate()) == threads

    in_lab(cache_dir, scene)


def test_each_wait_ends_at_its_own_deadline(cache_dir: Path) -> None:
    """Whatever order the deadlines come in, and whether the earlier ones are still waited for."""

    async def scene(lab: Laboratory) -> None:
        never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        lab.services = FakeServices(lambda *_: asyncio.shield(never))
        function = lab.function(wat.CACHED)

        async def late(timeout: float) -> float:
            began = time.monotonic()
            with pytest.raises(GuestTimedOut, match="waiting in cache_get"):
                await lab.call(function, b"k", timeout)
            return time.monotonic() - began - timeout

        given_up = asyncio.ensure_future(late(0.01))
        lates = asyncio.gather(*map(late, (0.3, 0.1, 0.2, 0.1)))
        await asyncio.sleep(0)
        given_up.cancel()
        assert all(0 <= seconds < LATE_S for seconds in await lates)

    in_lab(cache_dir, scene)


def test_guests_that_go_on_together_give_way(cache_dir: Path) -> None:
    """A hundred whose answers come in one turn of the loop, and who compute then: the loop waits for a few of them."""

    async def scene(lab: Laboratory) -> None:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        lab.services = FakeServices(lambda *_: asyncio.shield(answer))
        function = lab.function(wat.CACHED_THEN_BUSY, pool_max=100)
        calls = [asyncio.ensure_future(lab.call(function, b"k", timeout=30)) for _ in range(100)]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        answer.set_result(b"value")
        gaps = []
        while not all(call.done() for call in calls):
            before = time.monotonic()
            await asyncio.sleep(0)
            gaps.append(time.monotonic() - before)
        total = time.monotonic() - began
        assert {await call for call in calls} == {b"value"}
        assert len(gaps) > 5
        assert max(gaps) < total / 2

    in_lab(cache_dir, scene)


def test_cancelling_at_random_moments_leaves_nothing(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        waits: list[asyncio.Task[bytes]] = []

        async def answer() -> bytes:
            for _ in range(random.randrange(4)):
                await asyncio.sleep(random.random() / 500)
            return b"value"

        def start(*_: object) -> asyncio.Task[bytes]:
            waits.append(asyncio.ensure_future(answer()))
            return waits[-1]

        random.seed(3)
        lab.services = FakeServices(start)
        functions = [lab.function(module, pool_max=8) for module in (wat.CACHED, wat.LOOP, wat.HELLO)]
        tasks = []
        for _ in range(300):
            function = random.choice(functions)
            task = asyncio.ensure_future(lab.call(function, b"k", timeout=random.random() / 10))
            tasks.append(task)
            asyncio.get_running_loop().call_later(random.random() / 10, task.cancel)
            if random.random() < 0.1:
                await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {bytes, GuestTimedOut, asyncio.CancelledError}
        await settle()
        assert all(task.done() for task in waits)
        for function in functions:
            pool = function._pool
            assert pool.count == len(pool.idle)
            assert pool.direct
        assert await lab.call(functions[2], b"bob") == b"hello bob"

    in_lab(cache_dir, scene)


@pytest.mark.alone
def test_ten_endless_newcomers_do_not_hold_the_loop_for_ten_slices(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        endless = lab.function(wat.LOOP, pool_warm=10)
        await endless.warm()
        began = time.monotonic()
        runs = [asyncio.ensure_future(lab.call(endless, timeout=0.2)) for _ in range(10)]
        await asyncio.sleep(0)
        assert time.monotonic() - began < 5 * ticker.TICK_S + LATE_S / 2
        await asyncio.wait(runs)
        assert all(isinstance(run.exception(), GuestTimedOut) for run in runs)

    in_lab(cache_dir, scene)


def test_one_that_is_killed_before_its_first_turn_says_so(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        endless, hello = lab.function(wat.LOOP), lab.function(wat.HELLO)
        run = asyncio.ensure_future(lab.call(endless, timeout=0.3))
        while not lab.engine.scheduler.busy:
            await asyncio.sleep(0)
        lab.engine.scheduler.closed = True  # no turns
        with pytest.raises(GuestTimedOut, match="while waiting for its turn"):
            await lab.call(hello, b"bob", timeout=0.02)
        with pytest.raises(GuestTimedOut, match="while computing"):
            await run
        lab.engine.scheduler.closed = False

    in_lab(cache_dir, scene)


def test_the_ticker_parks_and_wakes(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "IDLE_TICKS", 3)

    async def scene(lab: Laboratory) -> None:
        function, endless = lab.function(wat.HELLO), lab.function(wat.LOOP)
        for _ in range(5):
            until = time.monotonic() + 5
            while not lab.engine.ticker.parked and time.monotonic() < until:
                await asyncio.sleep(0.005)
            assert lab.engine.ticker.parked
            assert await lab.call(function, b"bob") == b"hello bob"
            with pytest.raises(GuestTimedOut):
                await lab.call(endless, timeout=0.02)

    in_lab(cache_dir, scene)


def test_host_functions_see_the_callers_context_variables(cache_dir: Path) -> None:
    """In the first poll, and in later ones, when the scheduler polls for everybody."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    twice = wat.guest(
        """(drop (call $cache_get (local.get $ptr) (local.get $len) (i32.const 0)))
           (local.set $n (call $cache_get (local.get $ptr) (local.get $len) (i32.const 0)))
           (drop (call $fetch (i32.const 8192) (i32.const 0)))
           (call $result (i32.const 8192) (local.get $n) (i32.const 0))""",
        imports=wat.CACHE_GET,
    )

    async def scene(lab: Laboratory) -> None:
        async def answer() -> bytes:
            await asyncio.sleep(0.001)
            return variable.get().encode()

        lab.services = FakeServices(lambda *_: answer())
        function = lab.function(twice)

        async def one(name: str) -> None:
            variable.set(name)
            assert await lab.call(function, b"k") == name.encode()

        await asyncio.gather(*(one(f"message {number}") for number in range(20)))

    in_lab(cache_dir, scene)


def test_a_call_that_ends_on_its_first_poll_does_not_suspend(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        for isolation in ("pooled", "fresh"):
            function = lab.function(wat.HELLO, isolation=isolation)
            await function.warm()
            steps = []
            for _ in range(100):  # a tick may fall into one of them
                call = function.call(b"bob", lab.services, time.monotonic() + 1)
                try:
                    call.send(None)
                    steps.append(b"suspended")
                    call.close()
                    await settle()  # or it would stay in the queue, and those behind it would queue as well
                except StopIteration as end:
                    steps.append(end.value)
            assert steps.count(b"hello bob") >= 90

    in_lab(cache_dir, scene)


@pytest.mark.alone
@pytest.mark.parametrize("first", ["waits", "queues"])
def test_a_short_run_beside_many_endless_ones_takes_few_slices(cache_dir: Path, first: str) -> None:
    """Going on after a wait, or after long queueing, it has a slice: not one that is over already."""

    async def scene(lab: Laboratory) -> None:
        count = 40
        endless, short = lab.function(wat.LOOP, pool_max=count), lab.function(wat.CACHED)
        await short.warm()
        runs = [asyncio.ensure_future(lab.call(endless, timeout=20)) for _ in range(count)]
        await asyncio.sleep(0.05)

        async def answer() -> bytes:
            await asyncio.sleep(4 * ticker.TICK_S)
            return b"value"

        async def one() -> None:
            began = time.monotonic()
            assert await lab.call(short, b"k", timeout=20)
            took.append(time.monotonic() - began)

        if first == "waits":
            lab.services = FakeServices(lambda *_: answer())
        took: list[float] = []
        for _ in range(5):
            task = eager.start(one(), lab.engine.loop)
            assert task is not None, "it has to queue"
            if first == "queues":
                for _ in range(3):
                    capi.increment_epoch(lab.engine.address)
            await task
        for run in runs:
            run.cancel()
        await asyncio.wait(runs)
        assert min(took) < count * ticker.TICK_S / 2

    in_lab(cache_dir, scene)


@pytest.mark.parametrize("kind", ["bytes", "done"])
def test_a_guest_whose_calls_are_answered_at_once_gives_way_and_can_be_killed(cache_dir: Path, kind: str) -> None:
    async def scene(lab: Laboratory) -> None:
        done: asyncio.Future[bytes] = lab.engine.loop.create_future()
        done.set_result(b"value")
        lab.services = FakeServices(lambda *_: b"value" if kind == "bytes" else done)
        body = "(loop $again (drop (call $cache_get (i32.const 0) (i32.const 1) (i32.const 0))) (br $again))"
        function = lab.function(wat.guest(body, imports=wat.CACHE_GET))
        call = asyncio.ensure_future(lab.call(function, timeout=0.3))
        turns = 0
        while not call.done():
            await asyncio.sleep(0)
            turns += 1
            lab.services.calls.clear()
        assert isinstance(call.exception(), GuestTimedOut)
        assert turns > 10

    in_lab(cache_dir, scene)


@pytest.mark.alone
@pytest.mark.parametrize("name", ["log_msg", "cache_get"])
@pytest.mark.parametrize("call_s", [0.0002, 0.001, 0.003])
def test_an_endless_guest_in_host_calls_gives_way_and_can_be_killed(cache_dir: Path, name: str, call_s: float) -> None:
    """Python, which holds the GIL all the time but for moments, must not keep the ticker from ticking."""

    def work(*_: object) -> bytes:
        until = time.perf_counter() + call_s
        while time.perf_counter() < until:
            pass
        return b""

    async def scene(lab: Laboratory) -> None:
        lab.services = FakeServices(work)
        lab.services.log_msg = work  # type: ignore[method-assign,assignment]
        call = {
            "log_msg": "(call $log (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 0))",
            "cache_get": "(drop (call $cache_get (i32.const 0) (i32.const 1) (i32.const 0)))",
        }[name]
        imports = f'{wat.CACHE_GET} (import "env" "log_msg" (func $log (param i32 i32 i32 i32)))'
        function = lab.function(wat.guest(f"(loop $again {call} (br $again))", imports=imports))
        await function.warm()
        began = time.monotonic()
        run = asyncio.ensure_future(lab.call(function, timeout=1))
        gaps = []
        while not run.done():
            before = time.monotonic()
            await asyncio.sleep(0.001)
            gaps.append(time.monotonic() - before)
        assert isinstance(run.exception(), GuestTimedOut)
        assert time.monotonic() - began < 1 + LATE_S
        assert max(gaps) < 0.1
        assert sorted(gaps)[len(gaps) // 2] < 0.03

    in_lab(cache_dir, scene)


def test_a_host_function_may_run_another_guest(cache_dir: Path) -> None:
    """To its first wait, that is: the outer guest is the current one again afterwards."""
    log = '(import "env" "log_msg" (func $log (param i32 i32 i32 i32)))'
    line = f"(call $log (i32.const {wat.TEXT_AT}) (i32.const 5) (i32.const 1) (i32.const 0))"

    async def scene(lab: Laboratory) -> None:
        inner, outer = lab.function(wat.HELLO), lab.function(wat.guest(line * 3, imports=log))
        results = []

        def run_inner(*_: object) -> None:
            with pytest.raises(StopIteration) as end:
                inner.call(b"bob", FakeServices(), time.monotonic() + 5).send(None)
            results.append(end.value.value)

        lab.services.log_msg = run_inner  # type: ignore[method-assign,assignment]
        await lab.call(outer)
        assert results == [b"hello bob"] * 3
        assert ticker.current.instance is None

    in_lab(cache_dir, scene)


def test_a_killed_guests_late_failure_is_nobodys_news(cache_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A host call that fails while its guest is being killed: asyncio must not report an exception as lost."""

    async def scene(lab: Laboratory) -> None:
        async def fail() -> bytes:
            try:
                await asyncio.sleep(10)
            finally:
                raise HostError("the connection was closed")

        lab.services = FakeServices(lambda *_: fail())
        with pytest.raises(GuestTimedOut):
            await lab.run(wat.CACHED, b"k", timeout=0.02)
        await settle()
        gc.collect()
        assert not caplog.records

    in_lab(cache_dir, scene)
