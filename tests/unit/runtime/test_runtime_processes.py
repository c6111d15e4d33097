"""What happens in processes of their own: exits in the middle of everything, forks, threads, memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PRELUDE = f"""
import asyncio, gc, os, sys, threading, time
from pathlib import Path
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parents[2])!r}]
import uvloop
import wat_guests as wat
from laboratory import FakeServices, Laboratory, settle
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.function import Function
from atmo_farm.runtime.modules import compile_module
folder = Path(sys.argv[1])
"""


def run(script: str, cache_dir: Path) -> str:
    """Run a script in a process of its own; its output. An abort is a failure here and not the end of pytest."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PRELUDE + script, str(cache_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    return done.stdout


BUSY_LAB = """
async def main():
    lab = await Laboratory(folder).__aenter__()
    forever = asyncio.get_running_loop().create_future()
    lab.services = FakeServices(lambda *_: forever)
    waits, loops = lab.function(wat.CACHED), lab.function(wat.LOOP)
    global kept
    kept = [lab, forever]
    tasks = [asyncio.ensure_future(lab.call(function, b'k', timeout=100)) for function in (waits, loops) * 5]
    kept += tasks
    await asyncio.sleep(0.05)
    END
"""


@pytest.mark.parametrize(
    "end",
    [
        "os._exit(0)",
        "asyncio.get_running_loop().stop",
        "lab.engine.close()",
        "[task.cancel() for task in tasks]; await asyncio.wait(tasks); lab.engine.close()",
        "[task.cancel() for task in tasks]; lab.engine.close(); await asyncio.wait(tasks)",
        "sys.exit(0)",
        "pass",
    ],
)
def test_a_process_may_end_in_the_middle_of_everything(cache_dir: Path, end: str) -> None:
    """With guests waiting and computing: no abort, no hang."""
    run(BUSY_LAB.replace("END", end) + "\ntry:\n    uvloop.run(main())\nexcept SystemExit:\n    pass\n", cache_dir)


def test_a_loop_that_is_dropped_with_suspended_guests(cache_dir: Path) -> None:
    """Nobody cancels anything: what is left is collected, or not, in any order."""
    run(
        BUSY_LAB.replace("END", "return")
        + """
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.stop()
kept.clear()
gc.collect()
os._exit(0)
""",
        cache_dir,
    )


@pytest.mark.alone
def test_a_forked_child_boots_fast_and_small(cache_dir: Path) -> None:
    """Engine, loading and one warm instance in a child of a process that has imported everything."""
    output = run(
        """
compiled = compile_module(wat.HELLO, folder)
gc.collect(); gc.freeze()
assert threading.active_count() == 1
def private_kib():
    text = Path('/proc/self/smaps_rollup').read_text()
    return sum(int(l.split()[1]) for l in text.splitlines() if l.startswith('Private'))
async def child():
    began = time.perf_counter()
    engine = Engine(instances=8)
    function = Function(engine, compiled)
    await function.warm()
    booted = time.perf_counter() - began
    for _ in range(1000):
        await function.call(b'bob', FakeServices(), time.monotonic() + 5)
    assert {t.name for t in threading.enumerate()} == {'MainThread', 'epoch-ticker'}
    assert len(os.listdir('/proc/self/task')) == 2
    print(booted * 1000, private_kib() / 1024)
for _ in range(3):
    if (pid := os.fork()) == 0:
        uvloop.run(child()); sys.stdout.flush(); os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
""",
        cache_dir,
    )
    rows = [tuple(map(float, line.split())) for line in output.splitlines()]
    assert len(rows) == 3
    assert min(row[0] for row in rows) < 50
    assert min(row[1] for row in rows) < 20, "X dev doubles it; the benchmark holds the real bound"


def test_where_address_space_is_limited_instances_map_their_own(cache_dir: Path) -> None:
    """And none is reserved for others: wasmtime would end the process."""
    output = run(
        """
import resource
def reserved():
    return int(Path('/proc/self/statm').read_text().split()[0]) >> 18
async def main():
    for limit in (resource.RLIM_INFINITY, 100 << 30):
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        engine = Engine(instances=100)
        function = Function(engine, compile_module(wat.HELLO, folder))
        await function.warm()
        print(reserved(), await function.call(b'bob', FakeServices(), time.monotonic() + 5))
        engine.close()
uvloop.run(main())
""",
        cache_dir,
    )
    (wide, first), (narrow, second) = (line.split(maxsplit=1) for line in output.splitlines())
    assert int(wide) > 700 and int(narrow) < 50, "GiB"
    assert first == second == "b'hello bob'"


def test_compiling_starts_no_thread(cache_dir: Path) -> None:
    run(
        """
compile_module(wat.guest('(nop)'), folder)
assert len(os.listdir('/proc/self/task')) == 1
""",
        cache_dir,
    )


@pytest.mark.parametrize("end", ["holder.cancel()", "waits[0].set_result(b'done'); await asyncio.sleep(0)"])
def test_an_engine_is_closed_once_and_makes_nothing_afterwards(cache_dir: Path, end: str) -> None:
    """Also when a call has just been given the slot, or the instance, of one that ended: it runs nothing."""
    run(
        """
from atmo_farm.errors import AtmoFarmError, GuestTimedOut
async def main():
    lab = await Laboratory(folder).__aenter__()
    waits = []
    def answer(*_):
        waits.append(asyncio.get_running_loop().create_future())
        return waits[-1]
    lab.services = FakeServices(answer)
    function = lab.function(wat.CACHED, pool_max=1)
    holder, heir = (asyncio.ensure_future(lab.call(function, b'k')) for _ in range(2))
    await settle()
    END
    while function._pool._waiters:
        await asyncio.sleep(0)
    assert len(waits) == 1, 'the heir has got what it waited for, and has not run yet'
    lab.engine.close()
    lab.engine.close()
    ends = await asyncio.gather(holder, heir, return_exceptions=True)
    assert isinstance(ends[1], AtmoFarmError) and 'closed' in str(ends[1]), ends
    assert function.instances == 0
    for late in (lambda: lab.function(wat.HELLO), lambda: lab.engine.module(Path('x'))):
        try:
            late()
        except AtmoFarmError as error:
            assert 'closed' in str(error)
        else:
            raise AssertionError
uvloop.run(main())
""".replace("END", end),
        cache_dir,
    )


def test_closing_in_the_middle_of_warming_and_calling(cache_dir: Path) -> None:
    """Functions are closed at random moments while their instances start, wait, compute and are cancelled."""
    run(
        """
import random
from atmo_farm.consumer import eager
from atmo_farm.errors import AtmoFarmError
from atmo_farm.runtime import ticker, waiting
SLEEPS = wat.guest('(call $result (local.get $ptr) (local.get $len) (i32.const 0))', imports=wat.POLL,
    items='(func (export "init") (drop (call $poll (i32.const 4090) (i32.const 0) (i32.const 1) (i32.const 0))))',
    data=wat.subscription(1, 0, 1, 3_000_000))
ERRS = wat.guest('(call $error (i32.const 5) (local.get $ptr) (local.get $len) (i32.const 0))'
    ' (if (i32.rem_u (local.get $len) (i32.const 2)) (then unreachable))')

async def main():
    random.seed(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    lab, loop = await Laboratory(folder).__aenter__(), asyncio.get_running_loop()
    async def answer(key):
        for _ in range(random.randrange(3)):
            await asyncio.sleep(random.random() / 300)
        return b'value of ' + key.encode()
    lab.services = FakeServices(lambda _, key: answer(key) if random.random() < .7 else b'now ' + key.encode())

    async def one(module, function, data, timeout):
        try:
            result = await lab.call(function, data, timeout)
            assert result is None or result.endswith(data), (result, data)
        except AtmoFarmError as error:
            assert module is not ERRS or str(error) == data.decode() or 'closed' in str(error) or 'killed' in str(
                error) or 'not started' in str(error), (error, data)

    for turn in range(4):
        functions = [
            (module, lab.function(module, pool_max=random.choice((1, 2, 4)), pool_warm=random.choice((0, 1, 2)),
                                  isolation=random.choice(('pooled', 'fresh')), memory_limit=8 << 20))
            for module in (wat.CACHED, wat.LOOP, wat.HELLO, SLEEPS, ERRS)
        ]
        tasks = []
        for number in range(200):
            module, function = random.choice(functions)
            call = one(module, function, f'{turn}-{number}'.encode() * random.choice((1, 1, 200)),
                       random.choice((.002, .02, .2)))
            task = eager.start(call, loop) if random.random() < .7 else asyncio.ensure_future(call)
            if task is not None:
                tasks.append(task)
                if random.random() < .5:
                    loop.call_later(random.random() / 20, task.cancel)
                elif random.random() < .2:
                    task.cancel()
            if random.random() < .1:
                await asyncio.sleep(0)
            if random.random() < .01:
                function.close()
            if random.random() < .03:
                tasks.append(asyncio.ensure_future(function.warm()))
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        bad = [end for end in ends if isinstance(end, Exception) and not isinstance(end, AtmoFarmError)]
        assert not bad, bad
        await asyncio.sleep(.05)
        for module, function in functions:
            pool = function._pool
            assert pool.count == len(pool.idle) and not pool._waiters, (pool.count, pool.idle, pool._waiters)
            function.close()
        await asyncio.sleep(.02)
        assert [function.instances for _, function in functions] == [0] * len(functions)
        assert not waiting._waits and ticker.current.instance is None
    lab.engine.close()

uvloop.run(main())
""",
        cache_dir,
    )
