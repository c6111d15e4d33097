"""A worker's place in its consumer group: one process at a time has it.

The broker knows a worker by a static id, the same for each of its processes, and puts an older process out when a
newer one joins. While a reload replaces a worker both are there, so the newer one waits until the older has ended. The
place is a lock on a file, which the kernel lets go of when its process ends, however that ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable

from atmo_farm.consumer.context import ChildContext

FOLDER = "members"
LOOK_AGAIN_S = 0.05


async def take_place(context: ChildContext, waiting: Callable[[str, str], None]) -> None:
    """Returns when the place is this process's, for as long as it lives; `waiting` is told once if it is taken."""
    folder = context.state / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    place = os.open(folder / f"{context.handler.name}.{context.worker}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    told = False
    while True:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                waiting("its place in the group", "the process before it has not ended yet")
            told = True
            await asyncio.sleep(LOOK_AGAIN_S)
        else:
            return
