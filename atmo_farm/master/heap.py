"""The master's memory as children shall find it: what they write to beside it is theirs alone, page by page."""

from __future__ import annotations

import ctypes
import gc

_libc = ctypes.PyDLL(None)

SMALL = range(1016, 8, -16)
"""Bytes of the blocks that fill holes: one for each of glibc's classes of small chunks, the largest first."""


def freeze() -> None:
    """Put what is loaded beyond the collector's reach, so that children go on sharing its memory with the master."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def fill_holes() -> None:
    """Leave no free chunk in the heap but at its end; the 0.7 MB that this takes are shared by all.

    Imports leave a thousand small ones behind. The allocations of wasmtime, uvloop and OpenSSL fit into them, and each
    would give the child another page of its own: 1.1 MiB in all. So they go to the heap's end, one beside the other.
    Once in a process's life: nothing is ever given back.
    """
    if not hasattr(_libc, "malloc_trim"):  # glibc's
        return
    malloc, end_of_heap = _libc.malloc, _libc.sbrk
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    end_of_heap.restype, end_of_heap.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
    _libc.malloc_trim(0)
    end = end_of_heap(0)
    for size in SMALL:
        while (malloc(size) or end) < end:
            pass
