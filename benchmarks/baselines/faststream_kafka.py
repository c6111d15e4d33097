"""The same handler as a native Python function on FastStream with confluent-kafka (`kafka --peers`).

Needs `pip install "faststream[confluent]"`. A batch of up to 256 records is committed when its outputs are
acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop
from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker, KafkaMessage

WINDOW = 256


async def main(address: str, topic: str) -> None:
    """Serve until killed."""
    broker = KafkaBroker(address, acks="all", logger=None)
    publisher = broker.publisher(f"out.{topic}", batch=True)

    subscriber = broker.subscriber(
        topic, group_id=topic, auto_offset_reset="earliest", batch=True, max_records=WINDOW, ack_policy=AckPolicy.MANUAL
    )

    @subscriber
    async def hello(records: list[bytes], message: KafkaMessage) -> None:
        await publisher.publish(*(b"hello, " + record for record in records))
        await message.ack()

    def joined() -> None:
        while not subscriber.consumer.consumer.assignment():  # of the library beneath: nobody tells
            time.sleep(0.05)

    app = FastStream(broker, logger=None)

    @app.after_startup
    async def ready() -> None:
        await asyncio.to_thread(joined)
        print("ready", flush=True)

    await app.run()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
