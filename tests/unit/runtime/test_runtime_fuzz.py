"""Any pointer and length to every host function: a clean answer, canaries intact, the process lives.

The run is in a process of its own, since what it looks for would end it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent

FUZZ = f"""
import asyncio, hashlib, random, struct, sys, time
from pathlib import Path
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parents[2])!r}]
import uvloop
import wat_guests as wat
from wat_guests import FUNCTIONS, NO_RESULT, PUPPET, PUPPET_MEMORY, answers, script
from laboratory import FakeServices, Laboratory
from atmo_farm.errors import AtmoFarmError, GuestFailed, HostError, RunnableError
from atmo_farm.runtime import abi, layout

folder, cases, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
SIZE = PUPPET_MEMORY
EDGES = [0, 1, 2, 3, 4, 7, 8, 31, 64, 1000, 65535, 65536, SIZE - 64, SIZE - 8, SIZE - 4, SIZE - 1, SIZE, SIZE + 1,
         2**31 - 1, 2**31, 2**31 + 1, 2**32 - 65536, 2**32 - SIZE, 2**32 - SIZE - 1, 2**32 - 8, 2**32 - 1, -1]
WIDE = EDGES + [2**63, 2**63 - 1, -2**63, 10**9]
SPECIAL = {{'poll_oneoff', 'proc_exit'}}

def digest(memory):
    return hashlib.sha256(memory[:wat.COUNT_AT]).digest()

async def later(value):
    await asyncio.sleep(0)
    return value

def answer(name, *arguments):
    kind = random.randrange(6)
    value = bytes(random.choice((0, 1, 10, 1000, 70000)))
    if kind == 0: return later(value)
    if kind == 1: raise HostError('refused')
    if kind == 2: raise HostError('number', random.choice((-1, -2, 0)))
    if kind == 3: raise ValueError('a bug')
    return value

def argument(letter):
    edges = WIDE if letter == 'I' else EDGES
    kind = random.randrange(4)
    if kind < 3: return random.choice(edges)
    if random.random() < .5: return random.randrange(SIZE)
    return random.getrandbits(64 if letter == 'I' else 32)

def legal(name, number, module, results):
    if not results: return number == NO_RESULT
    if module == abi.WASI: return 0 <= number <= 76
    return -80 <= number <= 6 * SIZE  # request_get_field echoes a key, whose broken UTF-8 grows

async def main():
    import logging; logging.disable()
    async with Laboratory(folder) as lab:
        lab.services = FakeServices(answer)
        puppet, neighbour = lab.function(PUPPET, pool_max=1), lab.function(PUPPET, pool_max=1)
        canary = script(('sched_yield',))
        # the neighbour's whole memory, and the I/O memory's header of both
        await lab.call(neighbour, canary)
        reference = digest(await lab.call(neighbour, canary))
        done = trapped = last = turns = 0
        while done < cases:
            batch = []
            for _ in range(40):
                module, name, parameters, results = random.choice(FUNCTIONS)
                if name.startswith(('return_', 'get_ffi')) and random.random() < .99: continue
                arguments = [argument(letter) for letter in parameters]
                if name == 'poll_oneoff' and 0 <= arguments[0] < SIZE - 48:
                    arguments[0] = wat.SCRIPT_AT + 4096  # zeros: a timer that is due at once
                batch.append((name, *arguments))
            data = script(*batch)
            lab.services.calls.clear()
            try:
                memory = await lab.call(puppet, data, timeout=10)
                assert memory is not None and len(memory) == SIZE
                made = int.from_bytes(memory[wat.COUNT_AT:], 'little')
                done += made - last if made > last else made
                last = made
            except (RunnableError, GuestFailed):
                trapped += 1
                done += 1
                last = 0
            if turns % 25 == 0:
                assert digest(await lab.call(neighbour, canary)) == reference, 'a neighbour was changed'
                instance = neighbour._pool.idle[0]
                assert instance.header[layout.PENDING_LEN] == layout.NO_PENDING
            turns += 1
        # each function alone, so that a number can be told from what other calls wrote over the script
        for module, name, parameters, results in FUNCTIONS:
            for _ in range(max(20, cases // 2000)):
                call = (name, *(argument(letter) for letter in parameters))
                if name.startswith('return_') or name == 'poll_oneoff': continue
                calls = [call]
                before = len(lab.services.calls)
                try:
                    memory = await lab.call(puppet, script(*calls), timeout=10)
                except GuestFailed:
                    assert name.startswith('get_ffi_result')
                    continue
                number = answers(memory, 1)[0]
                if name in ('random_get', 'clock_time_get', 'fd_fdstat_get', 'fd_filestat_get'): continue
                assert legal(name, number, module, results), (call, number)
        assert digest(await lab.call(neighbour, canary)) == reference
        print(done, trapped, turns)

uvloop.run(main())
"""


@pytest.mark.fault(row="hostile-pointers")
@pytest.mark.timeout(3600)
def test_hostile_pointers_to_every_host_function(
    cache_dir: Path, amount: Callable[[int, int], int], figure: Callable[[str, object], None]
) -> None:
    """Clean answers only, no neighbour's memory changed, no crash."""
    cases = amount(30_000, 1_000_000)
    seed = os.environ.get("ATMO_FUZZ_SEED", "1")
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(cache_dir), str(cases), seed],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    assert "Exception ignored" not in done.stderr, done.stderr[-3000:]
    made, trapped, _ = map(int, done.stdout.split())
    assert made >= cases
    assert trapped < made / 10
    figure("calls", made)
    figure("runs that trapped", trapped)
