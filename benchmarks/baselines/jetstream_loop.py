"""A nats-py loop on uvloop, in one process: `python -m benchmarks.baselines.jetstream_loop URL SUBJECT`.

It fetches up to 256 messages of the durable `loop`, publishes `hello, <payload>` for each on `out.SUBJECT` (all at the
same time, each with its id and acknowledged), then acknowledges them. Prints `ready` once its consumer stands.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import nats
import uvloop
from nats.js.api import ConsumerConfig

WINDOW = 256


async def main(url: str, subject: str) -> None:
    """Serve until killed."""
    client = await nats.connect(url)
    stream = client.jetstream()
    config = ConsumerConfig(max_ack_pending=1000)
    subscription = await stream.pull_subscribe(subject, "loop", config=config)
    print("ready", flush=True)

    async def answer(message: Any) -> None:
        identity = f"IN.{message.metadata.sequence.stream}"
        await stream.publish(f"out.{subject}", b"hello, " + message.data, headers={"Nats-Msg-Id": identity})

    while True:
        try:
            batch = await subscription.fetch(WINDOW, timeout=5)
        except nats.errors.TimeoutError:
            continue
        await asyncio.gather(*map(answer, batch))
        for message in batch:
            await message.ack()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
