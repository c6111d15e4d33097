"""A consumer process's boot and end, run in this process against a real server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import nats
import pytest

from atmo_farm import processes
from atmo_farm.consumer.context import ChildContext
from atmo_farm.consumer.main import Consumer
from atmo_farm.directive import load
from atmo_farm.ipc.arena import Arena, Field, State
from atmo_farm.ipc.exits import ChildExit
from atmo_farm.settings import Settings
from atmo_farm.streams.base import Handle
from atmo_farm.streams.nats import NatsStream
from tests.farm import nats_directive, write_app
from tests.servers.nats import NatsServer


@pytest.fixture
def make_consumer(nats_server: NatsServer, tmp_path: Path) -> Iterator[Callable[..., Consumer]]:
    """`make_consumer(keys, settings)`: a consumer of `boot.a` whose guest counts; to be called on the running loop."""
    master_end, child_end = socket.socketpair()

    def make(keys: str = "", settings: Settings = Settings()) -> Consumer:  # noqa: B008 - it is frozen
        handler = f"resource: boot.a\nsteps: [{{fn: looping}}]\n{keys}"
        folder = write_app(tmp_path / "app", nats_directive(nats_server.url, handler), ("c", "looping"))
        application = load(folder)
        modules, problems = processes.compile_modules(application, tmp_path / "modules")
        assert not problems
        directive = application.directive
        slot = Arena().slot(0)
        context = ChildContext(
            directive.handlers[0], directive, modules, settings, slot, child_end, 0, 1, os.getpid(), tmp_path / "state"
        )
        return Consumer(context)

    yield make
    master_end.close()


def test_a_stop_before_the_boot_is_over_loses_nothing(
    nats_server: NatsServer, make_consumer: Callable[..., Consumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM comes when it is subscribed and not yet ready: what it has begun is finished."""
    consume = NatsStream.consume

    async def body() -> None:
        subscribed = asyncio.Event()

        async def never_done(stream: NatsStream, handle: Handle) -> None:
            await consume(stream, handle)
            subscribed.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(NatsStream, "consume", never_done)
        consumer = make_consumer()
        slot = consumer._slot
        running = asyncio.ensure_future(consumer.run())
        await subscribed.wait()
        client = await nats.connect(nats_server.url)
        answer = asyncio.ensure_future(client.request("boot.a", b"300000000", timeout=20))
        while slot[Field.IN_FLIGHT] == 0:
            await asyncio.sleep(0)
        assert not answer.done()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running is ChildExit.DRAINED
        assert slot[Field.OK] == slot[Field.RECEIVED] == 1
        answer.cancel()
        await asyncio.wait({answer})
        await client.close()

    asyncio.run(body())


def test_what_the_drain_deadline_cuts_off_is_counted(
    nats_server: NatsServer, make_consumer: Callable[..., Consumer]
) -> None:
    """Two endless ones in flight and 98 behind them: none starts any more, and all are counted."""

    async def body() -> None:
        consumer = make_consumer("maxInFlight: 2\ntimeout: 60s", Settings(drain_deadline_s=1.5))
        slot = consumer._slot
        running = asyncio.ensure_future(consumer.run())
        while slot[Field.STATE] != State.READY:
            await asyncio.sleep(0.01)
        client = await nats.connect(nats_server.url)
        for _ in range(100):
            await client.publish("boot.a", b"")
        await client.flush()
        assert consumer._serving is not None
        while slot[Field.IN_FLIGHT] < 2 or consumer._serving[0].pending() < 97:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running is ChildExit.DRAIN_DEADLINE
        assert (slot[Field.CANCELLED], slot[Field.DROPPED], slot[Field.OK]) == (2, 98, 0)
        await client.close()

    asyncio.run(body())
