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
    engine = Engine()
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


def test_compiling_starts_no_thread(cache_dir: Path) -> None:
    run(
        """
compile_module(wat.guest('(nop)'), folder)
assert len(os.listdir('/proc/self/task')) == 1
""",
        cache_dir,
    )
