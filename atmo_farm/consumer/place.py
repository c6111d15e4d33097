"""A worker's place in its consumer group: one process at a time has it.

The broker knows a worker by a static id, the same for each of its processes, and puts an older process out when a
newer one joins. While a reload replaces a worker both are there, so the newer one waits until the older has ended. The
place is a lock on a file, and so is the queue before it; the kernel lets go of both when their process ends, however
that ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from atmo_farm.consumer.context import ChildContext

FOLDER = "members"
LOOK_AGAIN_S = 0.05


class Place:
    """`streams.kafka.membership.Place`, by two files in the state folder."""

    def __init__(self, context: ChildContext, waiting: Callable[[str, str], None]):
        """`waiting` is told once if the place is taken."""
        self._file = context.state / FOLDER / f"{context.handler.name}.{context.worker}"
        self._waiting = waiting

    async def take(self) -> None:
        """Returns when it is this process's, for as long as it lives."""
        self._file.parent.mkdir(mode=0o700, exist_ok=True)
        place, queue = _open(self._file), _open(self._queue)
        if not _lock(place):
            await _get(queue)  # before it is told that it waits: the one before it looks there in the end
            self._waiting("its place in the group", "the process before it has not ended yet")
            await _get(place)
        os.close(queue)

    def is_wanted(self) -> bool:
        """Whether a process waits for it."""
        queue = _open(self._queue)
        try:
            return not _lock(queue)
        finally:
            os.close(queue)

    @property
    def _queue(self) -> Path:
        return self._file.with_name(f"{self._file.name}.next")


def _open(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


async def _get(file: int) -> None:
    while True:
        if _lock(file):
            return
        await asyncio.sleep(LOOK_AGAIN_S)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
