"""One call from a client through the proxy to the memory cache, alone and 64 in flight; against a bare Unix-socket echo
of frames of the same sizes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from atmo_farm import clock
from atmo_farm.ipc import frames
from atmo_farm.ipc.client import ProxyClient
from atmo_farm.ipc.frames import Op
from benchmarks import parts, proxy
from benchmarks.baselines.unix_echo import Client
from benchmarks.report import Check, Report, median

IN_FLIGHT = 64
ALONE, PIPELINED = 5_000, 60_000
"""Calls of one round."""
KEY, VALUE = "user:4711", b"v" * 32

Ask = Callable[[], Awaitable[object]]


def run(options: argparse.Namespace) -> Report:
    """Alternate the sides for so many rounds."""
    report = Report("hop", unit="calls/s, 64 in flight", header=("", "µs alone", "calls/s, 64 in flight"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(proxy.running(proxy.application(folder / "app", ""), folder / "data.sock"))
        request = len(frames.request(Op.CACHE_GET, 1, 0, 1.0, (KEY,)))
        reply = len(frames.reply(1, 0, VALUE))
        command = (sys.executable, "-m", "benchmarks.baselines.unix_echo", folder / "echo.sock", request, reply)
        echo = stack.enter_context(parts.process(*command, stdout=subprocess.PIPE))
        assert echo.stdout is not None and echo.stdout.readline() == b"ready\n"
        uvloop.run(_measure(report, folder, request, reply, options.rounds or 9))
    return report


async def _measure(report: Report, folder: Path, request: int, reply: int, rounds: int) -> None:
    loop = asyncio.get_running_loop()
    client = ProxyClient(folder / "data.sock", ["bench"])
    client.start()
    deadline = clock.monotonic() + 3600
    await client.call(Op.CACHE_SET, 0, deadline, (KEY, VALUE, 0))
    _, bare = await loop.create_unix_connection(lambda: Client(request, reply), str(folder / "echo.sock"))
    sides: dict[str, Ask] = {
        "atmo-farm": lambda: client.call(Op.CACHE_GET, 0, deadline, (KEY,)),
        "bare echo": bare.call,
    }
    alone: dict[str, list[float]] = {name: [] for name in sides}
    rate: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, ask in sides.items():
            began = time.perf_counter()
            for _ in range(ALONE):
                await ask()
            alone[name].append((time.perf_counter() - began) / ALONE * 1e6)
            began = time.perf_counter()
            await asyncio.gather(*(_asks(ask, PIPELINED // IN_FLIGHT) for _ in range(IN_FLIGHT)))
            rate[name].append(PIPELINED // IN_FLIGHT * IN_FLIGHT / (time.perf_counter() - began))
    await client.close()
    report.rows = [(name, f"{median(alone[name]):.1f}", f"{median(rate[name]):,.0f}") for name in sides]
    report.series = rate
    times = median([a / b for a, b in zip(alone["atmo-farm"], alone["bare echo"], strict=True)])
    report.ratio = median([a / b for a, b in zip(rate["atmo-farm"], rate["bare echo"], strict=True)])
    report.floor = 0.4
    report.checks = [
        Check("times the bare echo's time, alone", times, "<=", 2.5),
        Check("of the bare echo's rate, 64 in flight", report.ratio, ">=", 0.4),
    ]


async def _asks(ask: Ask, count: int) -> None:
    for _ in range(count):
        await ask()
