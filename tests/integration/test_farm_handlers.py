"""Handlers of a real farm paused, drained, restarted and scaled by the command line, with messages on their way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from tests.farm import Farm, nats_directive, write_app
from tests.servers.nats import NatsServer

DURABLE = """
resource: in.>
durable: work
jetstream: {ackWait: 2s}
name: work
workers: 2
steps: [{fn: hello}]
respondTo: {source: nats, resource: out.all}
"""
CORE = """
resource: ask
name: asked
group: askers
steps: [{fn: hello}]
"""
SLOW = """
resource: spin
name: slow
timeout: 500ms
retry: {attempts: 1}
steps: [{fn: looping}]
"""


@pytest.fixture
def server(start_jetstream: Callable[[], NatsServer]) -> NatsServer:
    return start_jetstream()


def app_of(tmp_path: Path, server: NatsServer) -> Path:
    directive = nats_directive(server.url, DURABLE, CORE, SLOW)
    return write_app(tmp_path / "app", directive, ("c", "hello"), ("c", "looping"))


async def run(farm: Farm, *arguments: str) -> str:
    """A command, in a thread of this process; its standard output."""
    done = await asyncio.to_thread(farm.operate, *arguments)
    assert done.exit_code == 0, (done.stderr, farm.tail())
    return done.stdout


async def status(farm: Farm, name: str) -> dict[str, Any]:
    report = json.loads(await run(farm, "status", "--json"))
    found: dict[str, Any] = next(entry for entry in report["handlers"] if entry["name"] == name)
    return {**found, "monitor": report["farm"]["monitor"]}


async def is_ready(farm: Farm) -> dict[str, Any]:
    """What /ready says, which must be yes."""
    address = (await status(farm, "work"))["monitor"]

    def get() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{address}/ready", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    return await asyncio.to_thread(get)


def test_a_durable_handler(tmp_path: Path, server: NatsServer) -> None:
    """Under a steady feed: paused, it settles what it had and begins nothing, over a kill, a reload and a restart of
    its processes; then it is resumed, restarted, scaled, drained. Each message is served, and once."""
    fed = 0

    async def body(farm: Farm) -> None:
        nonlocal fed
        client = await nats.connect(server.url)
        js = client.jetstream()
        for name in ("in", "out"):
            await js.add_stream(name=name.upper(), subjects=[f"{name}.>"])
        farm.start()
        await asyncio.to_thread(farm.wait_notified, "READY=1")
        ended = asyncio.Event()

        async def feed() -> None:
            nonlocal fed
            while not ended.is_set():
                await js.publish("in.a", b"%d" % fed)
                fed += 1
                await asyncio.sleep(0.005)

        async def delivered() -> int:
            info = await js.consumer_info("IN", "work")
            assert info.delivered is not None
            return int(info.delivered.consumer_seq)

        async def until_it_serves() -> None:
            """All that there is now."""
            wanted = fed
            while (await js.stream_info("OUT")).state.messages < wanted:
                await asyncio.sleep(0.02)

        feeding = asyncio.ensure_future(feed())
        await until_it_serves()
        assert await run(farm, "drain", "work") == "drained work\n"
        stands_at = await delivered()
        assert (await js.consumer_info("IN", "work")).num_ack_pending == 0
        before = await status(farm, "work")
        os.kill(before["workers"][0]["pid"], signal.SIGKILL)
        os.kill(farm.pid, signal.SIGHUP)
        await asyncio.to_thread(farm.wait_log, message="reload: in force")
        assert await run(farm, "restart", "work") == "restarted work: 2 started, 2 ended\n"
        after = await status(farm, "work")
        assert (after["state"], after["ready"]) == ("paused", 2) and await delivered() == stands_at
        assert {"name": "work", "ready": True, "paused": True, "why": []} in (await is_ready(farm))["handlers"]
        assert await run(farm, "resume", "work") == "resumed work\n"
        await until_it_serves()
        assert await run(farm, "restart", "work") == "restarted work: 2 started, 2 ended\n"
        assert await run(farm, "scale", "work", "4") == "scaled work: 2 started, 0 ended\n"
        assert "ready (scaled from 2)  4/4" in await run(farm, "status")
        await until_it_serves()
        assert await run(farm, "scale", "work", "1") == "scaled work: 0 started, 3 ended\n"
        ended.set()
        await feeding
        await until_it_serves()
        state = (await js.stream_info("OUT")).state
        found = [(await js.get_msg("OUT", number)).data for number in range(1, state.last_seq + 1)]
        assert sorted(found) == sorted(b"hello, %d" % number for number in range(fed))
        await client.close()

    farm = Farm(app_of(tmp_path, server))
    try:
        asyncio.run(asyncio.wait_for(body(farm), 90))
    finally:
        farm.__exit__()


def test_a_core_handler(tmp_path: Path, server: NatsServer) -> None:
    """Paused it has left its queue group: another member gets all, and without one nobody answers. Drain waits for what
    is in hand. A name that is misspelt ends with 4."""

    async def body(farm: Farm) -> None:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="IN", subjects=["in.>"])
        farm.start()
        await asyncio.to_thread(farm.wait_notified, "READY=1")
        assert (await client.request("ask", b"you", timeout=10)).data == b"hello, you"
        await run(farm, "pause", "asked")
        with pytest.raises(NoRespondersError):
            await client.request("ask", b"you", timeout=10)
        others: list[bytes] = []

        async def other(message: Msg) -> None:
            others.append(message.data)
            await message.respond(b"me")

        member = await client.subscribe("ask", queue="askers", cb=other)
        answers = [await client.request("ask", b"%d" % number, timeout=10) for number in range(20)]
        assert len(others) == 20 and {answer.data for answer in answers} == {b"me"}
        await member.unsubscribe()
        await run(farm, "resume", "asked")
        assert (await client.request("ask", b"you", timeout=10)).data == b"hello, you"
        spinning = asyncio.ensure_future(client.request("spin", b"", timeout=20))
        while not (await status(farm, "slow"))["in_flight"]:
            await asyncio.sleep(0.01)
        await run(farm, "drain", "slow")
        found = await status(farm, "slow")
        assert (found["in_flight"], found["failed"], found["state"]) == (0, 1, "paused")
        assert (await spinning).headers is not None
        done = await asyncio.to_thread(farm.operate, "pause", "asekd")
        assert done.exit_code == 4 and "did you mean asked?" in done.stderr
        await client.close()

    farm = Farm(app_of(tmp_path, server))
    try:
        asyncio.run(asyncio.wait_for(body(farm), 60))
    finally:
        farm.__exit__()
