"""A consumer process's boot and end, run in this process against a real server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import nats
import pytest

from atmo_farm import processes
from atmo_farm.consumer.context import ChildContext
from atmo_farm.consumer.main import Consumer
from atmo_farm.directive import load
from atmo_farm.ipc.arena import Arena, Field
from atmo_farm.ipc.exits import ChildExit
from atmo_farm.settings import Settings
from atmo_farm.streams.base import Handle
from atmo_farm.streams.nats import NatsStream
from tests.farm import nats_directive, write_app
from tests.servers.nats import NatsServer


def test_a_stop_before_the_boot_is_over_loses_nothing(
    nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM comes when it is subscribed and not yet ready: what it has begun is finished."""
    folder = write_app(
        tmp_path / "app", nats_directive(nats_server.url, "resource: boot.a\nsteps: [{fn: looping}]"), ("c", "looping")
    )
    application = load(folder)
    modules, problems = processes.compile_modules(application, tmp_path / "modules")
    assert not problems
    slot = Arena().slot(0)
    master_end, child_end = socket.socketpair()
    consume = NatsStream.consume

    async def body() -> tuple[ChildExit, int]:
        subscribed = asyncio.Event()

        async def never_done(stream: NatsStream, handle: Handle) -> None:
            await consume(stream, handle)
            subscribed.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(NatsStream, "consume", never_done)
        (handler,) = application.directive.handlers
        context = ChildContext(handler, application.directive, modules, Settings(), slot, child_end, 0, 1, os.getpid())
        running = asyncio.ensure_future(Consumer(context).run())
        await subscribed.wait()
        client = await nats.connect(nats_server.url)
        answer = asyncio.ensure_future(client.request("boot.a", b"300000000", timeout=20))
        while slot[Field.IN_FLIGHT] == 0:
            await asyncio.sleep(0)
        assert not answer.done()
        os.kill(os.getpid(), signal.SIGTERM)
        end = await running
        answered = slot[Field.OK]
        answer.cancel()
        await asyncio.wait({answer})
        await client.close()
        return end, answered

    end, answered = asyncio.run(body())
    master_end.close()
    assert end is ChildExit.DRAINED
    assert answered == slot[Field.RECEIVED] == 1
