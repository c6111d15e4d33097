"""What a child finds of the master's heap."""

from __future__ import annotations

import subprocess
import sys

SMALL_BLOCKS = """
import ctypes
from atmo_farm.master import heap
libc = ctypes.PyDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(100) for _ in range(20_000)]
for block in blocks[::2]:
    libc.free(block)
heap.fill_holes()
further = [libc.malloc(40) for _ in range(1000)]
print(max(further) - min(further))
"""


def test_small_allocations_lie_side_by_side() -> None:
    """Not each in another page that a child would no longer share: 1,000 blocks of 48 bytes in 64 KiB."""
    command = [sys.executable, "-c", SMALL_BLOCKS]
    span = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert span < 64 << 10
