"""kill -9 of a durable handler's only consumer under load: seconds until the next message is done.

Counted is the first output of a message that was published after the kill; JetStream holds what the dead process had.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path

import nats
from nats.aio.msg import Msg

from benchmarks import machine, parts
from benchmarks.jetstream import make_streams
from benchmarks.report import Check, Report, median

BOUND_S = 1.0
APART_S = 3.0
"""Kills that come faster count as a crash loop."""
PAUSE_S = 0.005
EXTRA = "    durable: farm\n    respondTo: {source: nats, resource: out.bench.0}\n"


def run(options: argparse.Namespace) -> Report:
    """So many kills."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(parts.nats_server("-js", "-sd", folder / "jetstream"))
        asyncio.run(make_streams(url, IN="bench.>", OUT="out.>"))
        master = stack.enter_context(parts.farm(parts.hello_app(folder / "app", url, extra=EXTRA)))
        found = asyncio.run(_kill(url, master, options.rounds or 7))
    report = Report("recovery", unit="s", header=("", "median s", "slowest s"))
    report.rows.append(("kill -9 to the next message", f"{median(found):.3f}", f"{max(found):.3f}"))
    report.series = {"atmo-farm": found}
    report.checks.append(Check("seconds from kill -9 to the next message, slowest", max(found), "<=", BOUND_S))
    return report


async def _kill(url: str, master: int, kills: int) -> list[float]:
    client = await nats.connect(url)
    published: list[float] = []
    killed_at = float("inf")
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def take(message: Msg) -> None:
        number = int("".join(filter(str.isdigit, message.data.decode())))
        if published[number] > killed_at and not done.done():
            done.set_result(time.monotonic())

    async def publish() -> None:
        while True:
            published.append(time.monotonic())
            await client.publish("bench.0", b"%d" % (len(published) - 1))
            await asyncio.sleep(PAUSE_S)

    await client.subscribe("out.bench.0", cb=take)
    publishing = asyncio.ensure_future(publish())
    found = []
    for _ in range(kills):
        await asyncio.sleep(APART_S)
        done = asyncio.get_running_loop().create_future()
        killed_at = time.monotonic()
        os.kill(machine.consumers(master)[0], signal.SIGKILL)
        found.append(await asyncio.wait_for(done, 30) - killed_at)
    publishing.cancel()
    await client.close()
    return found
