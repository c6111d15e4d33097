"""What it means when a run did not end by itself: from wasmtime's trap and the I/O memory's header to one exception."""

from __future__ import annotations

import re

from atmo_farm.errors import AtmoFarmError, GuestOutOfMemory, GuestTrapped

_UNREACHABLE = 9
_FRAME = re.compile(r"^ *\d+: +0x[0-9a-f]+ - (.+)$", re.MULTILINE)
_OURS = ("atmo_farm_invoker!", "atmo_farm_sink!")
_SHOWN_FRAMES = 3
_SHOWN_NAME = 120
_MEBI = 1 << 20


def trapped(code: int | None, text: str, memory_size: int, memory_limit: int) -> AtmoFarmError:
    """The exception for a trap.

    Wasm does not tell that a guest was refused memory: it sees -1 and, in most languages, aborts. An abort with more
    than half of the limit in use is taken for that, since allocators double.
    """
    cause = _cause(text)
    where = _where(text)
    if code == _UNREACHABLE and memory_size > memory_limit // 2:
        return GuestOutOfMemory(
            f"aborted with {memory_size / _MEBI:.0f} of its {memory_limit / _MEBI:.0f} MiB of memory in use, "
            f"most likely refused more: {cause}{where}"
        )
    return GuestTrapped(f"trap: {cause}{where}")


def not_instantiated(error: Exception) -> GuestTrapped:
    """The exception for a store that could not be filled: no address space is left, or the module wants too much."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Caused by" not in line]
    return GuestTrapped(f"could not be instantiated: {': '.join(lines)}")


def exited(status: int, text: bytes) -> GuestTrapped:
    """The exception for a guest that ended its run with proc_exit."""
    return GuestTrapped(with_last_line(f"exit status {status}", text))


def with_last_line(message: str, text: bytes) -> str:
    """The message and the last line that the guest printed, which mostly says why."""
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return f"{message}: {lines[-1][:500]}" if lines else message


def too_large(what: str, memory_limit: int) -> GuestOutOfMemory:
    """The exception for an input or output that does not fit below the memory limit."""
    return GuestOutOfMemory(f"{what} does not fit into the function's memory limit of {memory_limit / _MEBI:g} MiB")


def does_not_start(what: str, needed: int, limit: int, unit: str) -> GuestOutOfMemory:
    """The exception for a module that needs more than it may have before it runs at all."""
    return GuestOutOfMemory(f"needs {needed} {unit} of {what} to start; the limit is {limit}")


def _cause(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if "wasm trap:" in line:
            return line.split("wasm trap:", 1)[1].strip()
    return lines[-1] if lines else "no reason given"


def _where(text: str) -> str:
    frames = [frame for frame in _FRAME.findall(text) if not frame.startswith(_OURS)]
    names = [frame.split("!", 1)[-1][:_SHOWN_NAME] for frame in frames[:_SHOWN_FRAMES]]
    return f" in {' < '.join(names)}" if names else ""
