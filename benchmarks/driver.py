"""A load driver in a process of its own: requests with a bounded number in flight, or at a fixed rate.

`python -m benchmarks.driver URL SUBJECT --in-flight N --seconds S [--rate R]` prints one line of JSON:
answered, seconds, and the latencies' p50, p99 in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

import nats
import uvloop

PAYLOAD = b"x" * 100
SILENCE_S = 5.0


async def drive(url: str, subject: str, in_flight: int, seconds: float, rate: float, count: int) -> dict[str, Any]:
    """Send until the time or the count is used up, then wait for the last answers."""
    client = await nats.connect(url, pending_size=16 << 20)
    inbox = client.new_inbox()
    sent: dict[str, float] = {}
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()
    began = time.perf_counter()
    end = began + seconds if seconds else float("inf")
    number = 0

    async def send() -> None:
        nonlocal number
        number += 1
        key = str(number)
        sent[key] = time.perf_counter()
        await client.publish(subject, PAYLOAD, reply=f"{inbox}.{key}")

    async def answered(message: Any) -> None:
        now = time.perf_counter()
        latencies.append(now - sent.pop(message.subject.rsplit(".", 1)[1]))
        if not rate and now < end and (not count or number < count):
            await send()
        elif not sent and not finished.done() and (not rate or now >= end):
            finished.set_result(None)

    await client.subscribe(f"{inbox}.*", cb=answered, pending_bytes_limit=-1, pending_msgs_limit=-1)
    await client.flush()
    if rate:
        while (now := time.perf_counter()) < end:
            for _ in range(int((now - began) * rate) - number):
                await send()
            await client.flush()
            await asyncio.sleep(0.001)
    else:
        for _ in range(in_flight):
            await send()
    while not finished.done() and sent:
        seen = len(latencies)
        await asyncio.wait({finished}, timeout=SILENCE_S)
        if len(latencies) == seen:
            break
    took = time.perf_counter() - began
    await client.close()
    latencies.sort()
    p = [latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99)] if latencies else [0.0, 0.0]
    return {"answered": len(latencies), "lost": len(sent), "seconds": took, "p50_ms": p[0], "p99_ms": p[1]}


def main() -> None:
    """Parse the command line and print the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("subject")
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=0)
    o = parser.parse_args()
    print(json.dumps(uvloop.run(drive(o.url, o.subject, o.in_flight, o.seconds, o.rate, o.count))))


if __name__ == "__main__":
    main()
