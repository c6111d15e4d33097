"""The same handler as a native Python function on FastStream (`--peers`; needs `pip install "faststream[nats]"`)."""

from __future__ import annotations

import sys

import uvloop
from faststream import FastStream
from faststream.nats import NatsBroker


async def main(url: str, subject: str) -> None:
    """Serve until killed."""
    broker = NatsBroker(url)

    @broker.subscriber(subject, queue="echo")
    async def echo(message: bytes) -> bytes:
        return b"hello, " + message

    app = FastStream(broker)

    @app.after_startup
    async def ready() -> None:
        print("ready", flush=True)

    await app.run()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
