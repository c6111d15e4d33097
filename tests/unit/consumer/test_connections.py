"""Of a handler with two connections: what its process is told, and when both are there."""

from __future__ import annotations

import asyncio

from atmo_farm.consumer.connections import End
from tests.streams import Events


def test_it_is_connected_when_both_are() -> None:
    """Who comes back while the other is away leaves the reason of the other standing."""

    async def body() -> list[str]:
        process = Events()
        source, target = End.pair(process)
        source.connected()
        target.waiting("kafka out", "refused")
        source.waiting("nats in", "gone")
        source.connected()
        target.connected()
        target.closed("fenced")
        source.dropped(3)
        assert process.drops == [3]
        return process.told

    assert asyncio.run(body()) == [
        "connected",
        "waiting: refused",
        "waiting: gone",
        "waiting: refused",
        "connected",
        "closed: fenced",
    ]
