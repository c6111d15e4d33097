"""What the kernel knows of a process."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_UTIME, _STIME, _RSS = 11, 12, 21
"""Behind the name in /proc/PID/stat: processor time in ticks, resident memory in pages."""


@attrs.frozen
class Usage:
    """What a process uses."""

    memory: int
    """Resident bytes, shared ones included."""
    cpu_s: float

    def __add__(self, other: Usage) -> Usage:
        """Of both."""
        return Usage(self.memory + other.memory, self.cpu_s + other.cpu_s)


def usage(pid: int) -> Usage | None:
    """None when it is gone, or no descriptor is left to look."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Usage(int(fields[_RSS]) * PAGE, (int(fields[_UTIME]) + int(fields[_STIME])) / TICKS_PER_S)
