"""What the consumer process writes into its arena slot beside the messages' counts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from atmo_farm import log
from atmo_farm.consumer.context import ChildContext
from atmo_farm.consumer.main import Consumer
from atmo_farm.directive.model import Directive, Handler
from atmo_farm.ipc import channel
from atmo_farm.ipc.arena import Arena, Field
from atmo_farm.settings import Settings
from atmo_farm.streams.nats import NatsStream

HANDLER = Handler(name="a", type="stream", source="nats", resource="a", steps=())
DIRECTIVE = Directive(identifier="com.example.app", app_version="v1.0.0", atmo_version="v0.4.7", handlers=(HANDLER,))


class Idle:
    """A stream on which nothing waits."""

    def pending(self) -> int:
        return 0


def test_dropped_log_lines_are_counted_on_over_a_respawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like all counts of a slot: a process adds to what those before it have counted."""
    slot = Arena().slot(0)
    ours, theirs = channel.pair()

    async def process(dropped: int) -> None:
        consumer = Consumer(ChildContext(HANDLER, DIRECTIVE, {}, Settings(), slot, ours, 0, 1, 1, Path()))
        monkeypatch.setattr(log, "dropped", lambda: dropped)
        for _ in range(2):
            consumer._write_gauges(cast(NatsStream, Idle()))

    for dropped in (3, 4, 0):
        asyncio.run(process(dropped))
    assert slot[Field.LOG_LINES_DROPPED] == 7
    theirs.close()
    ours.close()
