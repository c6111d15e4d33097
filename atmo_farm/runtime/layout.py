"""The I/O memory: what the sink, the invoker and Python share of one instance.

    0          HEADER: i32 words, listed below
    TEXT_AT    what the guest wrote to its stdout and stderr
    DATA_AT    the call's input; then, from word TOP on, results copied out of the guest and pending host results

The guest cannot reach it: only the sink and the invoker import it. Python reads and writes it at its address, which
never changes (the engine reserves its whole range), and never past its size, which only grows.
"""

from __future__ import annotations

PAGE = 65536
"""Bytes of a Wasm page."""

TEXT_AT = 128
DATA_AT = 32768
TEXT_CAP = DATA_AT - TEXT_AT
"""What a run may write to stdout and stderr; past it the guest gets ENOSPC."""

RETAINED_PAGES = 16
"""An instance whose I/O memory has grown beyond this is not kept after its call: memories never shrink."""

STATUS = 0
"""0 until the call has ended by itself; then kind + 1, with the bits below."""
STATUS_RESULT = 2
"""A plain result and nothing else to do."""
STATUS_NOTED = 16
"""There is text, or word NOTE was set."""
STATUS_WORN = 32
"""The I/O memory has grown beyond RETAINED_PAGES."""

INPUT_LEN = 1
IDENT = 2
KIND = 3
"""NOTHING, RESULT, ERROR or ABORT."""
CODE = 4
PTR = 5
LEN = 6
FILE_PTR = 7
FILE_LEN = 8
LINE = 9
COLUMN = 10
TOP = 11
"""The first free byte after what has been copied out."""
PENDING_PTR = 12
PENDING_LEN = 13
"""NO_PENDING when nothing is pending."""
STAGE = 14
"""RUNNING; RETURNED once run_e is over and the result safe; DEALLOCATED after deallocate."""
SKIP_DEALLOCATE = 15
"""1 for guests that free their input themselves."""
TEXT_LEN = 16
EXITED = 17
EXIT_CODE = 18
FULL = 19
"""1 when an output did not fit below the memory limit."""
NOTE = 20
"""Set by Python during a call when something is left to do after it."""
STDIN_AT = 21
STDIN_END = 22

NOTHING, RESULT, ERROR, ABORT = 0, 1, 2, 3
RUNNING, RETURNED, DEALLOCATED = 0, 1, 2
NO_PENDING = 0xFFFFFFFF


def expand(source: str) -> str:
    """WAT in which `@NAME` stands for the byte offset of a header word, and `#NAME` for a constant of this module."""
    names = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, int)}
    for name in sorted(names, key=len, reverse=True):
        source = source.replace(f"@{name}", f"(i32.const {names[name] * 4})")
        source = source.replace(f"#{name}", f"(i32.const {names[name]})")
    return source
