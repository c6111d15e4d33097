"""A bare nats-py echo on uvloop, in one process: `python -m benchmarks.baselines.nats_echo URL SUBJECT`.

It answers `hello <payload>`, as the guest does, and nothing else. Prints `ready` once it is subscribed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import nats
import uvloop


async def main(url: str, subject: str) -> None:
    """Serve until killed."""
    client = await nats.connect(url)

    async def echo(message: Any) -> None:
        await client.publish(message.reply, b"hello, " + message.data)

    await client.subscribe(subject, queue="echo", cb=echo)
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
