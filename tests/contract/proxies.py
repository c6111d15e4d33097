"""What tests of the proxy's socket share: a source that does what a call's key says, a server on it, raw peers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from atmo_farm import clock
from atmo_farm.datasource.call import Call
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure
from atmo_farm.datasource.server import Server
from atmo_farm.datasource.sources import Sources
from atmo_farm.errors import DataSourceError
from atmo_farm.ipc import frames
from atmo_farm.ipc.client import Answer, ProxyClient
from atmo_farm.ipc.frames import Op, Splitter, Status
from atmo_farm.ipc.gauges import SourceFigures
from tests.streams import Watched

HANDLERS = ["first", "second"]
FAR = 1e9
"""A deadline that does not come."""

_FAILURES = {"failed": CallFailed, "transient": TransientFailure, "unknown": OutcomeUnknown}


class ScriptedSource(Watched):
    """`base.Source`: a CACHE_GET is answered with its own key.

    `later …` at a random moment, in any order; `hold …` when `release` is called; `failed|transient|unknown …` by that
    kind of failure; `broken` raises; `size N` is N bytes long. A CACHE_SET or a query is answered with its key or name.
    """

    name = "cache"

    def __init__(self) -> None:
        super().__init__()
        self._chance = random.Random(4)
        self.calls: list[Call] = []
        self.held: list[Call] = []
        self.cancelled: list[Call] = []
        self.forgotten: list[object] = []
        self.reason = ""

    async def open(self) -> None:
        pass

    def execute(self, call: Call) -> None:
        self.calls.append(call)
        key = call.arguments[0]
        word, _, rest = key.partition(" ")
        if word == "later":
            asyncio.get_running_loop().call_later(self._chance.random() * 0.01, call.answer, key.encode())
        elif word == "hold":
            self.held.append(call)
        elif word in _FAILURES:
            call.fail(_FAILURES[word](rest))
        elif word == "broken":
            raise RuntimeError("a bug of this source")
        else:
            call.answer(bytes(int(rest)) if word == "size" else key.encode())
        self._changed.set()

    def release(self) -> None:
        """Answer all that are held."""
        held, self.held = self.held, []
        for call in held:
            call.answer(call.arguments[0].encode())

    def cancel(self, call: Call) -> None:
        self.cancelled.append(call)
        self._changed.set()

    def forget(self, client: object) -> None:
        self.forgotten.append(client)
        self._changed.set()

    def problem(self) -> str:
        return self.reason

    def figures(self) -> SourceFigures:
        return SourceFigures(is_up=not self.reason, connections=0, busy=0, waiting=0, outages=0)

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def serving(path: Path, source: ScriptedSource | None = None) -> AsyncIterator[ScriptedSource]:
    """A server on this loop, with one source for the cache and the database `default`."""
    source = source or ScriptedSource()
    server = Server(Sources(source, {"default": source}, {"query": "default"}), path)
    await server.start()
    try:
        yield source
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[ProxyClient]:
    """A client."""
    client = ProxyClient(path, HANDLERS)
    client.start()
    try:
        yield client
    finally:
        await client.close()


def get(client: ProxyClient, key: str, handler: int = 0) -> Answer:
    """CACHE_GET."""
    return client.call(Op.CACHE_GET, handler, clock.monotonic() + 60, (key,))


def set_(client: ProxyClient, key: str, value: bytes = b"value") -> Answer:
    """CACHE_SET, as what must not be repeated blindly."""
    return client.call(Op.CACHE_SET, 0, clock.monotonic() + 60, (key, value, 0), writes=True)


async def end(answer: Answer) -> bytes | str:
    """The answer, or how it failed: `transient: text`, `unknown: text`, `failed: text`, `cancelled`."""
    try:
        return await answer
    except DataSourceError as error:
        kind = "transient" if error.transient else "unknown" if error.unknown else "failed"
        return f"{kind}: {error.message}"
    except asyncio.CancelledError:
        return "cancelled"


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)


class RawPeer:
    """A client that sends what a test says, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer
        self._splitter = Splitter(frames.MAX_REPLY)
        self._replies: list[tuple[int, int, bytes]] = []

    def send(self, *data: bytes) -> None:
        self._writer.write(b"".join(data))

    async def drain(self) -> None:
        await self._writer.drain()

    async def reply(self) -> tuple[int, int, bytes] | None:
        """(number, status, payload) of the next one; None when the connection has ended."""
        while not self._replies:
            try:
                data = await self._reader.read(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            for content in self._splitter.split(data):
                self._replies.extend(frames.replies(content))
        return self._replies.pop(0)

    async def hello(self, version: int = frames.VERSION) -> tuple[int, int, bytes] | None:
        self.send(frames.request(Op.HELLO, 0, 0, 0.0, (version, HANDLERS)))
        return await self.reply()


@contextlib.asynccontextmanager
async def raw_peer(path: Path, *, greeted: bool = True) -> AsyncIterator[RawPeer]:
    """One connection."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    peer = RawPeer(reader, writer)
    try:
        if greeted:
            assert await peer.hello() == (0, Status.OK, frames.encode(frames.VERSION))
        yield peer
    finally:
        writer.transport.abort()


def raw_get(number: int, key: str, handler: int = 0) -> bytes:
    """A CACHE_GET request."""
    return frames.request(Op.CACHE_GET, number, handler, FAR, (key,))


class ProxyProcess:
    """A server in a process of its own, on the scripted source; started and killed at will."""

    def __init__(self, path: Path):
        self.path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._next: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Have the next one ready: it has imported all it needs, and listens when it is told. That is a matter of
        milliseconds, as in a farm, where a proxy is forked."""
        command = (sys.executable, "-m", "tests.contract.proxies", str(self.path))
        self._next = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._read(self._next) == b"ready\n"

    def start(self) -> None:
        """Return when it listens."""
        if self._next is None:
            self.prepare()
        self._process, self._next = self._next, None
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(b"listen\n")
        self._process.stdin.flush()
        assert self._read(self._process) == b"listening\n"

    @staticmethod
    def _read(process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        return process.stdout.readline()

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        self._process, self._next = self._next, None
        self.kill()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextlib.contextmanager
def proxy_process(path: Path) -> Iterator[ProxyProcess]:
    """One that runs."""
    process = ProxyProcess(path)
    process.start()
    try:
        yield process
    finally:
        process.close()


async def _main(path: Path) -> None:
    """Serve until stdin ends, as it does with the test."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    loop.add_reader(0, lambda: ended.done() or ended.set_result(None))
    async with serving(path):
        print("listening", flush=True)
        await ended


if __name__ == "__main__":
    import uvloop

    print("ready", flush=True)
    if sys.stdin.buffer.raw.readline() != b"listen\n":  # type: ignore[attr-defined]
        sys.exit()
    uvloop.run(_main(Path(sys.argv[1])))
