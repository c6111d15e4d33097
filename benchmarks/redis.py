"""cache_get through guest and proxy, 64 in flight; against redis.asyncio awaiting each, and a pipeline by hand."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.asyncio
import uvloop

from atmo_farm.directive import load
from atmo_farm.settings import HandlerDefaults
from benchmarks import proxy
from benchmarks.report import Check, Report, median
from tests.servers.redis import RedisServer

IN_FLIGHT = 64
CALLS = 20_000
VALUE = b"v" * 32


def run(options: argparse.Namespace) -> Report:
    """Alternate the sides for so many rounds."""
    report = Report("redis", unit="gets/s", header=("", "gets/s"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = RedisServer(folder / "redis")
        server.start()
        stack.callback(server.stop)
        text = f"connections:\n  redis: {{serverAddress: {server.address}}}\n"
        app = proxy.application(folder / "app", text)
        stack.enter_context(proxy.running(app, folder / "data.sock"))
        uvloop.run(_measure(report, app, folder / "data.sock", server.address, options.rounds or 7))
    return report


async def _measure(report: Report, app: Path, socket: Path, address: str, rounds: int) -> None:
    client = redis.asyncio.Redis.from_url(f"redis://{address}", max_connections=IN_FLIGHT)
    keys = [f"user:{number}" for number in range(IN_FLIGHT)]
    await client.mset(dict.fromkeys(keys, VALUE))
    directive = load(app, HandlerDefaults()).directive
    async with proxy.guests(proxy.CACHE_GUEST, directive, socket, IN_FLIGHT) as guests:

        async def ours() -> None:
            async def ask(key: bytes) -> None:
                for _ in range(CALLS // IN_FLIGHT):
                    assert await guests.call(key) == VALUE

            await asyncio.gather(*(ask(key.encode()) for key in keys))

        async def awaited() -> None:
            async def ask(key: str) -> None:
                for _ in range(CALLS // IN_FLIGHT):
                    await client.get(key)

            await asyncio.gather(*map(ask, keys))

        async def pipelined() -> None:
            for _ in range(CALLS // IN_FLIGHT):
                pipeline = client.pipeline(transaction=False)
                for key in keys:
                    pipeline.get(key)
                await pipeline.execute()

        sides: dict[str, Callable[[], Awaitable[None]]] = {
            "atmo-farm": ours,
            "redis.asyncio, each awaited": awaited,
            "a pipeline by hand": pipelined,
        }
        rate: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds + 1):
            for name, side in sides.items():
                began = time.perf_counter()
                await side()
                if number:  # the first one makes instances and connections
                    rate[name].append(CALLS // IN_FLIGHT * IN_FLIGHT / (time.perf_counter() - began))
    await client.aclose()
    report.rows = [(name, f"{median(values):,.0f}") for name, values in rate.items()]
    report.series = rate
    ours_, awaited_, pipelined_ = rate.values()
    report.ratio = median([a / b for a, b in zip(ours_, awaited_, strict=True)])
    report.floor = 1.5
    hand = median([a / b for a, b in zip(ours_, pipelined_, strict=True)])
    report.checks = [
        Check("of redis.asyncio's rate, each call awaited", report.ratio, ">=", 1.5),
        Check("of the rate of a pipeline made by hand", hand, ">=", 0.5),
    ]
