"""The HTTP port against clients of every kind: a real socket, uvicorn's protocol, a real arena."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from atmo_farm.directive.model import Directive
from atmo_farm.ipc import channel
from atmo_farm.ipc.address import Listener, listen
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.cards import Life
from atmo_farm.ipc.channel import ChildChannel
from atmo_farm.monitor import http
from atmo_farm.monitor.context import MonitorContext
from atmo_farm.monitor.farm import Farm
from atmo_farm.monitor.http import CONNECTIONS, HttpServer
from atmo_farm.settings import Settings
from tests.unit.monitor.made import MadeFarm, age

Response = tuple[int, dict[str, str], str]


class Port:
    """A farm of cards behind a port."""

    def __init__(self, listener: Listener):
        self.made = MadeFarm()
        self.host, self.port = listener.socket.getsockname()
        _, child_end = channel.pair()
        context = MonitorContext(
            arena=self.made.arena,
            settings=Settings(),
            slot=self.made.arena.slot(4095),
            channel=child_end,
            path=Path("/nowhere"),
            state=Path("/nowhere"),
            generation=1,
            directive=lambda _: Directive(identifier="a", app_version="v1", atmo_version="v0.4.7"),
            history=list,
            http=listener,
        )
        self.server = HttpServer(listener, Farm(context, ChildChannel(child_end)))

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    async def ask(self, path: str, *headers: str, method: str = "GET") -> Response:
        """One request on a connection of its own."""
        reader, writer = await self.open()
        writer.write("\r\n".join([f"{method} {path} HTTP/1.1", "Host: farm", *headers, "", ""]).encode())
        answer = (await reader.read()).decode()
        writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        status, *lines = head.split("\r\n")
        return int(status.split()[1]), {name.lower(): text for name, text in (line.split(": ") for line in lines)}, body


def run(test: Callable[[Port], Awaitable[None]]) -> None:
    async def main() -> None:
        listener = listen("127.0.0.1:0")
        assert listener is not None
        port = Port(listener)
        port.server.start()
        try:
            await asyncio.wait_for(test(port), 20)
        finally:
            port.server.close()
            listener.end()

    asyncio.run(main())


def test_answers() -> None:
    """200 or 503 with JSON; metrics as the client accepts them; HEAD without a body; nothing else there."""

    async def test(port: Port) -> None:
        port.made.worker("a")
        port.made.show()
        status, headers, body = await port.ask("/ready")
        assert (status, headers["content-type"], headers["connection"]) == (200, "application/json", "close")
        assert json.loads(body)["handlers"] == [{"name": "a", "ready": True, "paused": False, "why": []}]
        assert json.loads((await port.ask("/live"))[2]) == {"live": True}
        status, headers, body = await port.ask("/metrics")
        assert status == 200 and headers["content-type"].startswith("text/plain") and "atmo_farm_ready 1.0" in body
        status, headers, body = await port.ask("/metrics", "Accept: application/openmetrics-text;version=1.0.0")
        assert headers["content-type"].startswith("application/openmetrics-text") and body.endswith("# EOF\n")
        status, headers, body = await port.ask("/metrics", method="HEAD")
        assert status == 200 and int(headers["content-length"]) > 1000 and body == ""
        assert (await port.ask("/ready", method="POST"))[0] == 405
        assert (await port.ask("/etc/passwd"))[0] == 404

    run(test)


def test_what_changes_is_said_by_the_next_answer_but_for_a_moment() -> None:
    """An answer is given again only as long as making it may cost."""

    async def test(port: Port) -> None:
        port.made.worker("a", life=Life.WAITING, waits_for="nats default (refused)")
        age(port.made.numbers, Field.HEARTBEAT_NS, 60)
        port.made.show()
        assert (await port.ask("/live"))[0] == (await port.ask("/ready"))[0] == 503
        age(port.made.numbers, Field.HEARTBEAT_NS, 0)
        while (answer := await port.ask("/ready"))[2].count("sign of life"):
            await asyncio.sleep(0.01)
        assert json.loads(answer[2])["handlers"][0]["why"] == ["waiting for nats default (refused)"]

    run(test)


def test_clients_that_hang_take_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing, sends slowly or never reads: the oldest goes when a place is needed, all after their time."""
    monkeypatch.setattr(http, "PATIENCE_S", 2.0)

    async def test(port: Port) -> None:
        for number in range(300):
            port.made.worker(f"handler-{number}")
        port.made.show()
        hanging = [await port.open() for _ in range(CONNECTIONS * 2)]
        for number, (_, writer) in enumerate(hanging):
            writer.write((b"", b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")[number % 3])
        began = time.monotonic()
        assert (await port.ask("/live"))[0] == 200
        assert time.monotonic() - began < 2
        cut = [reader.read() for reader, _ in hanging[:CONNECTIONS]]
        await asyncio.gather(*cut, return_exceptions=True)
        await asyncio.gather(*(reader.read() for reader, _ in hanging[CONNECTIONS:]), return_exceptions=True)
        assert not port.server.connections
        for _, writer in hanging:
            writer.close()

    run(test)


@pytest.mark.parametrize(
    "words",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000,
        b"GET /metrics HTTP/1.1\r\nA: " + b"a" * 500_000,
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n" * 1000,
    ],
    ids=["tls", "version", "body", "header", "chunks", "pipeline"],
)
def test_words_that_are_no_request_end_their_connection(words: bytes) -> None:
    """And no other."""

    async def test(port: Port) -> None:
        reader, writer = await port.open()
        writer.write(words)
        answer = await asyncio.gather(reader.read(), return_exceptions=True)
        assert isinstance(answer[0], ConnectionError) or answer[0][:9] in (b"HTTP/1.1 ", b"")
        writer.close()
        assert (await port.ask("/live"))[0] == 200

    run(test)


def test_a_flood_costs_bounded_time() -> None:
    """Answers are kept: a thousand scrapes of a large farm cost what a few do."""

    async def test(port: Port) -> None:
        for number in range(100):
            port.made.worker(f"handler-{number}")
        port.made.show()
        began = time.process_time()
        await port.ask("/metrics")
        once = time.process_time() - began
        began = time.process_time()
        for _ in range(10):
            answers = await asyncio.gather(*(port.ask("/metrics") for _ in range(30)))
            assert all(status == 200 for status, _, _ in answers)
        assert time.process_time() - began < 300 * once / 4
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 20

    run(test)
