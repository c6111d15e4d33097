"""100 B messages of a stream, through Wasm into another, acknowledged: a farm of one consumer against a nats-py loop.

Both have 256 messages at once, publish each output with its id and wait for its acknowledgement. Counted is CPU:
messages per CPU second of all processes of the farm, against the loop's one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

import nats
from nats.aio.client import Client

from benchmarks import machine, parts
from benchmarks.report import Check, Report, median

MESSAGES = 20_000
FLOOR = 0.6
PAYLOAD = b"x" * 100
EXTRA = "    durable: farm\n    respondTo: {source: nats, resource: out.bench.0}\n"


def run(options: argparse.Namespace) -> Report:
    """Alternate the sides for so many rounds."""
    report = Report("jetstream", floor=FLOOR, unit="messages per CPU second")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(parts.nats_server("-js", "-sd", folder / "jetstream"))
        asyncio.run(make_streams(url, IN="bench.>", OUT="out.>"))
        app = parts.hello_app(folder / "app", url, extra=EXTRA)
        sides = {
            "atmo-farm": ("bench.0", "farm", stack.enter_context(parts.farm(app))),
            "nats-py loop": (
                "bench.loop",
                "loop",
                stack.enter_context(parts.peer("jetstream_loop", url, "bench.loop")),
            ),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        per_cpu: dict[str, list[float]] = {name: [] for name in sides}
        for subject, durable, _ in sides.values():
            asyncio.run(_drive(url, subject, durable, MESSAGES // 10))
        for _ in range(options.rounds or 5):
            for name, (subject, durable, pid) in sides.items():
                pids = machine.tree(pid)
                before = machine.cpu_s(pids)
                seconds = asyncio.run(_drive(url, subject, durable, MESSAGES))
                rates[name].append(MESSAGES / seconds)
                per_cpu[name].append(MESSAGES / (machine.cpu_s(pids) - before))
    report.header = ("", "msg/s", "CPU µs/msg", "msg per CPU s")
    for name in sides:
        cpu = median(per_cpu[name])
        report.rows.append((name, f"{median(rates[name]):,.0f}", f"{1e6 / cpu:.1f}", f"{cpu:,.0f}"))
    report.series = per_cpu
    pairs = zip(per_cpu["atmo-farm"], per_cpu["nats-py loop"], strict=True)
    report.ratio = median([ours / theirs for ours, theirs in pairs])
    report.checks.append(Check("messages per CPU second against the nats-py loop", report.ratio, ">=", FLOOR))
    return report


async def make_streams(url: str, **subjects: str) -> None:
    """Streams in memory: name → subject."""
    client = await nats.connect(url)
    for name, subject in subjects.items():
        await client.jetstream().add_stream(name=name, subjects=[subject], storage="memory")
    await client.close()


async def _drive(url: str, subject: str, durable: str, count: int) -> float:
    """Publish so many, and wait until all outputs are there and all inputs acknowledged; returns the seconds."""
    client = await nats.connect(url, pending_size=64 << 20)
    before = await kept(client, "OUT")
    began = time.perf_counter()
    for _ in range(count):
        await client.publish(subject, PAYLOAD)
    await client.flush()
    while await kept(client, "OUT") < before + count or await _unsettled(client, durable):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    seconds = time.perf_counter() - began
    assert await kept(client, "OUT") == before + count, "an output is there twice"
    await client.close()
    return seconds


async def kept(client: Client, stream: str) -> int:
    """How many messages a stream has."""
    return (await client.jetstream().stream_info(stream)).state.messages


async def _unsettled(client: Client, durable: str) -> int:
    info = await client.jetstream().consumer_info("IN", durable)
    return (info.num_ack_pending or 0) + (info.num_pending or 0)
