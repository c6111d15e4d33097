"""Whose guest runs at this moment is to be read from outside, also when the process is dead."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wat_guests as wat
from laboratory import FakeServices, Laboratory, in_lab
from test_runtime_processes import PRELUDE

from atmo_farm.errors import GuestTimedOut


def test_it_is_noted_while_a_guest_runs_and_only_then(cache_dir: Path) -> None:
    """Each by its own number, before and after a wait; while it waits, and after its end, nobody is."""

    async def scene(lab: Laboratory) -> None:
        entered = lab.engine.entered = memoryview(bytearray(8)).cast("Q")
        function = lab.function(wat.CACHED)
        forever: list[asyncio.Future[bytes]] = []
        seen: list[tuple[int, int]] = []

        def services(number: int) -> FakeServices:
            def answer(*_: object) -> asyncio.Future[bytes]:
                seen.append((number, entered[0]))
                forever.append(asyncio.get_running_loop().create_future())
                return forever[-1]

            made = FakeServices(answer)
            made.number = number
            return made

        numbers = [7, 2**64 - 1, 0]
        deadline = time.monotonic() + 10
        calls = [asyncio.ensure_future(function.call(b"k", services(number), deadline)) for number in numbers]
        while len(forever) < len(calls):
            await asyncio.sleep(0)
        assert entered[0] == 0
        for future in forever:
            future.set_result(b"v")
        await asyncio.gather(*calls)
        assert seen == [(number, number) for number in numbers] and entered[0] == 0

    in_lab(cache_dir, scene)


def test_a_guest_that_is_cut_off(cache_dir: Path) -> None:
    """Killed at its deadline it is not entered any more."""

    async def scene(lab: Laboratory) -> None:
        entered = lab.engine.entered = memoryview(bytearray(8)).cast("Q")
        lab.services.number = 7
        with pytest.raises(GuestTimedOut):
            await lab.call(lab.function(wat.LOOP), timeout=0.05)
        assert entered[0] == 0

    in_lab(cache_dir, scene)


SPINS = """
import mmap
async def main():
    lab = await Laboratory(folder).__aenter__()
    with open(folder / 'arena', 'r+b') as file:
        lab.engine.entered = memoryview(mmap.mmap(file.fileno(), 4096)).cast('Q')[8:9]
    lab.services.number = 4711
    await lab.call(lab.function(wat.LOOP), timeout=100)
uvloop.run(main())
"""


def test_a_process_that_is_killed_while_its_guest_spins(cache_dir: Path) -> None:
    """What it had entered stays to be read."""
    (cache_dir / "arena").write_bytes(bytes(4096))
    with (cache_dir / "arena").open("r+b") as file:
        entered = memoryview(mmap.mmap(file.fileno(), 4096)).cast("Q")[8:9]
    process = subprocess.Popen([sys.executable, "-c", PRELUDE + SPINS, str(cache_dir)])
    try:
        deadline = time.monotonic() + 30
        while entered[0] != 4711:  # it gives way each tick: stop it inside of the guest
            assert process.poll() is None and time.monotonic() < deadline
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    finally:
        process.kill()
        process.wait()
    assert entered[0] == 4711
