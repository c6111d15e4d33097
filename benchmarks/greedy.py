"""One handler floods the proxy with queries, another asks one at a time: its p99, against the same alone."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from atmo_farm import clock
from atmo_farm.errors import DataSourceError
from atmo_farm.ipc.client import ProxyClient
from atmo_farm.ipc.frames import Op
from benchmarks import parts, proxy
from benchmarks.report import Check, Report, median
from tests.servers.postgresql import PostgresServer

FLOOD = 1000
"""Calls of the greedy one in flight."""
CALLS = 1500
QUERY = ("one", [b"7"], 0, False)


def run(options: argparse.Namespace) -> Report:
    """Alternate: alone, and beside the flood."""
    report = Report("greedy", unit="p99, ms", header=("", "p50 ms", "p99 ms"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = PostgresServer()
        server.start()
        stack.callback(server.remove)
        text = (
            f'connections:\n  database: {{type: postgresql, connectionString: "{server.url()}"}}\n'
            "queries:\n  - {name: one, query: SELECT $1::text AS it}\n"
        )
        stack.enter_context(proxy.running(proxy.application(folder / "app", text), folder / "data.sock"))
        uvloop.run(_measure(report, folder / "data.sock", options.rounds or 5))
    return report


async def _measure(report: Report, socket: Path, rounds: int) -> None:
    client = ProxyClient(socket, ["modest"])
    client.start()
    await _connected(client)
    p50: dict[str, list[float]] = {"alone": [], "beside the flood": []}
    p99: dict[str, list[float]] = {"alone": [], "beside the flood": []}
    for _ in range(rounds):
        _note(await _latencies(client), p50["alone"], p99["alone"])
        command = (sys.executable, "-m", "benchmarks.greedy", socket)
        with parts.process(*command, stdout=subprocess.PIPE) as flood:
            assert flood.stdout is not None and flood.stdout.readline() == b"flooding\n"
            _note(await _latencies(client), p50["beside the flood"], p99["beside the flood"])
    await client.close()
    report.rows = [(name, f"{median(p50[name]):.2f}", f"{median(p99[name]):.2f}") for name in p99]
    report.series = p99
    times = median([a / b for a, b in zip(p99["beside the flood"], p99["alone"], strict=True)])
    report.ratio, report.floor = 1 / times, 1 / 3
    report.checks = [Check("times its p99 alone", times, "<=", 3.0)]


async def _latencies(client: ProxyClient) -> list[float]:
    found = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await client.call(Op.QUERY, 0, clock.monotonic() + 30, QUERY)
        found.append((time.perf_counter() - began) * 1000)
    return sorted(found)


def _note(latencies: list[float], p50: list[float], p99: list[float]) -> None:
    p50.append(latencies[len(latencies) // 2])
    p99.append(latencies[len(latencies) * 99 // 100])


async def _connected(client: ProxyClient) -> None:
    while True:
        try:
            await client.call(Op.QUERY, 0, clock.monotonic() + 30, QUERY)
            return
        except DataSourceError:
            await asyncio.sleep(0.1)


async def flood(socket: str) -> None:
    """Be the greedy one, until killed."""
    client = ProxyClient(Path(socket), ["greedy"])
    client.start()
    await _connected(client)

    async def ask() -> None:
        while True:
            await client.call(Op.QUERY, 0, clock.monotonic() + 30, QUERY)

    flooding = asyncio.gather(*(ask() for _ in range(FLOOD)))
    await asyncio.sleep(0.5)
    print("flooding", flush=True)
    await flooding


if __name__ == "__main__":
    uvloop.run(flood(sys.argv[1]))
