"""What /proc says of processes: CPU time and memory."""

from __future__ import annotations

from pathlib import Path


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found


def consumers(master: int) -> list[int]:
    """A farm's processes without the master and the monitor."""
    return [pid for pid in tree(master)[1:] if Path(f"/proc/{pid}/comm").read_text().strip() != "atmo monitor/0"]


def cpu_s(pids: list[int]) -> float:
    """CPU seconds that the processes have used, all threads, to the nanosecond (schedstat)."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def private_bytes(pid: int) -> int:
    """Memory that only this process has (private clean and dirty)."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1]) << 10
    return total
