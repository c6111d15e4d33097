"""A worker's place in its group: one process has it, one waits for it, and both let go however they end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from atmo_farm.consumer.context import ChildContext
from atmo_farm.consumer.place import FOLDER, LOOK_AGAIN_S, Place
from atmo_farm.directive.model import Directive, Handler
from atmo_farm.ipc import channel
from atmo_farm.ipc.arena import Arena
from atmo_farm.settings import Settings
from tests.streams import Events, run

HOLD = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
"""Another process of the worker: it has the lock until it is killed."""


def place(state: Path, worker: int = 0, waiting: Callable[[str, str], None] = lambda *_: None) -> Place:
    handler = Handler(name="orders", type="stream", source="kafka", resource="orders", steps=())
    directive = Directive(
        identifier="com.example.app", app_version="v1.0.0", atmo_version="v0.4.7", handlers=(handler,)
    )
    ours, _ = channel.pair()
    slot = Arena().slot(0)
    return Place(ChildContext(handler, directive, {}, Settings(), slot, ours, worker, 1, 1, state), waiting)


def test_it_is_free_when_who_had_it_is_killed(tmp_path: Path) -> None:
    """Who comes meanwhile says once that it waits, and is seen by the one before it."""
    (tmp_path / FOLDER).mkdir()
    before = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / FOLDER / "orders.0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert before.stdout is not None
    before.stdout.readline()

    async def body() -> None:
        events, seen_by_the_other = Events(), place(tmp_path)
        assert not seen_by_the_other.is_wanted()
        next_one = asyncio.create_task(place(tmp_path, waiting=events.waiting).take())
        await events.until_told("waiting: the process before it has not ended yet")
        assert seen_by_the_other.is_wanted()
        await asyncio.sleep(3 * LOOK_AGAIN_S)
        assert not next_one.done() and len(events.told) == 1
        before.kill()
        await next_one
        assert not seen_by_the_other.is_wanted()

    try:
        run(body())
    finally:
        before.kill()
        before.communicate()


def test_each_worker_has_its_own(tmp_path: Path) -> None:
    """And who finds it free waits for nobody."""
    events = Events()

    async def body() -> None:
        for worker in (0, 1):
            await place(tmp_path, worker, events.waiting).take()

    run(body())
    assert events.told == []
