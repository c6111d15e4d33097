"""Who breaks the proxy's protocol, floods it, does not read or is somebody else hurts nobody but itself."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atmo_farm.datasource import clients
from atmo_farm.datasource.memory import MemoryCache
from atmo_farm.datasource.server import Server
from atmo_farm.datasource.sources import Sources
from atmo_farm.ipc import frames
from atmo_farm.ipc.client import PATIENCE_S, RECONNECT_S, ProxyClient
from atmo_farm.ipc.frames import Op, Status
from atmo_farm.ipc.link import HIGH_WATER
from tests.contract.proxies import (
    FAR,
    HANDLERS,
    RawPeer,
    ScriptedSource,
    connected,
    end,
    get,
    raw_get,
    raw_peer,
    serving,
    set_,
    until,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "proxy.sock"


MALFORMED = {
    "a frame of 0 bytes": bytes(4),
    "a frame of 4294967295 bytes": b"\xff" * 4,
    "a frame that is too long": (frames.MAX_REQUEST + 1).to_bytes(4, "little") + bytes(100),
    "no msgpack": frames.frame(b"\xc1"),
    "no array": frames.frame(b"\x05"),
    "msgpack and more": frames.frame(frames.encode([]) + b"\x00"),
    "an op that is none": frames.request(99, 5, 0, 0.0, ("key",)),
    "other arguments": frames.request(Op.CACHE_GET, 5, 0, 0.0, ()),
    "a handler that is not in its hello": raw_get(5, "key", handler=2),
    "a number that is taken": raw_get(1, "hold") + raw_get(1, "hold"),
    "too much for one frame": frames.frame(frames.encode([(Op.CACHE_GET, 1, 0, FAR, ("k" * 40_000,))] * 2)),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_frame_ends_its_connection_only(
    path: Path, malformed: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path) as source, connected(path) as client, raw_peer(path) as peer:
        bystander = get(client, "hold")
        peer.send(raw_get(7, "first"), malformed)
        replies = []
        while (reply := await peer.reply()) is not None:
            replies.append(reply)
        assert replies in ([], [(7, Status.OK, b"first")])
        [record] = [record for record in caplog.records if "dropped" in record.message]
        assert "malformed frame" in str(vars(record)["fields"])
        await source.until(lambda: len(source.forgotten) == 1)
        source.release()
        assert await bystander == b"hold"
        assert await get(client, "key") == b"key"


async def test_calls_before_the_hello_end_the_connection(path: Path) -> None:
    async with serving(path) as source, raw_peer(path, greeted=False) as peer:
        peer.send(raw_get(1, "key"))
        assert await peer.reply() is None
        assert source.calls == []


async def test_another_version_is_refused_with_the_reason(path: Path) -> None:
    async with serving(path), raw_peer(path, greeted=False) as peer:
        reply = await peer.hello(frames.VERSION + 1)
        assert reply is not None
        number, status, text = reply
        assert (number, status) == (0, Status.REFUSED)
        assert text.startswith(f"the proxy speaks version {frames.VERSION}".encode())
        peer.send(raw_get(1, "key"))
        assert await peer.reply() is None


@pytest.mark.parametrize("handlers", [[], [str(number) for number in range(clients.MAX_HANDLERS + 1)]])
async def test_a_hello_without_handlers_or_with_too_many_is_refused(path: Path, handlers: list[str]) -> None:
    async with serving(path), raw_peer(path, greeted=False) as peer:
        peer.send(frames.request(Op.HELLO, 0, 0, 0.0, (frames.VERSION, handlers)))
        assert (await peer.reply() or (0, 0))[1] == Status.REFUSED
        assert await peer.reply() is None


async def test_a_second_hello_is_refused(path: Path) -> None:
    async with serving(path), raw_peer(path) as peer:
        assert (await peer.hello() or (0, 0))[1] == Status.REFUSED
        assert await peer.reply() is None


async def test_more_calls_than_a_connection_may_have_end_it(path: Path) -> None:
    async with serving(path) as source, raw_peer(path) as peer:
        peer.send(*(raw_get(number, "hold") for number in range(1, clients.MAX_CALLS + 2)))
        assert await peer.reply() is None
        assert len(source.calls) == clients.MAX_CALLS
        await source.until(lambda: len(source.cancelled) == clients.MAX_CALLS)


def mode(path: Path) -> int | None:
    """Its permissions; None when it is not there."""
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


async def test_the_socket_is_the_owners_alone(path: Path) -> None:
    async with serving(path):
        assert mode(path) == 0o600


AS_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[2]))
"""


def as_nobody(code: str, path: Path) -> subprocess.Popen[bytes]:
    """Python code, `path` its only variable, as the user nobody."""
    assert os.getuid() == 0, "changing the user takes root"
    nobody = pwd.getpwnam("nobody")
    command = (sys.executable, "-c", f"{AS_NOBODY}\npath = sys.argv[1]\n{code}")
    return subprocess.Popen(
        (*command, str(path), str(nobody.pw_uid), str(nobody.pw_gid)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


@pytest.fixture
def open_path() -> Iterator[Path]:
    """In a folder that everybody may enter and write to."""
    folder = Path(tempfile.mkdtemp(prefix="atmo-farm-proxy-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder / "proxy.sock"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


async def test_a_foreign_user_is_refused_by_the_server(open_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(open_path) as source:
        await asyncio.to_thread(open_path.chmod, 0o666)  # as if the folder and the socket had been opened by mistake
        code = "s = socket.socket(socket.AF_UNIX); s.connect(path); print(s.recv(10)); s.close()"
        process = await asyncio.to_thread(as_nobody, code, open_path)
        out, _ = await asyncio.to_thread(process.communicate)
        assert out in (b"b''\n", b"")  # closed, or reset
        assert f"its peer runs as user id {pwd.getpwnam('nobody').pw_uid}" in str(
            [vars(record).get("fields") for record in caplog.records]
        )
        assert source.calls == []


async def test_a_foreign_users_server_is_told_nothing(open_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = """
s = socket.socket(socket.AF_UNIX); s.bind(path); os.chmod(path, 0o666); s.listen()
print("ready", flush=True)
c, _ = s.accept(); print(c.recv(1000), flush=True)
"""
    process = await asyncio.to_thread(as_nobody, code, open_path)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
    async with connected(open_path) as client:
        answer = get(client, "key")
        assert await asyncio.to_thread(process.stdout.readline) in (b"b''\n", b"")
        assert "the data source socket is not this farm's" in caplog.text
        answer.cancel()
    await asyncio.to_thread(process.wait)
    process.stdout.close()
    process.stdin.close()  # type: ignore[union-attr]


async def test_a_client_that_does_not_read_its_replies_is_not_read_from(path: Path) -> None:
    """What it has asked is bounded by what fits into buffers, however much it sends."""
    async with serving(path) as source, raw_peer(path) as peer, connected(path) as client:
        asked = 3000
        sending = asyncio.create_task(send_gets(peer, asked, "size 100000"))
        taken = -1
        while taken != (taken := asked_of(source)):  # until it takes no more
            for number in range(200):  # while others are served
                assert await get(client, f"other {number}") == b"other %d" % number
        assert 0 < taken <= (clients.HIGH_WATER + (2 << 20)) / 100_000 + 1
        for number in range(1, asked + 1):
            reply = await peer.reply()
            assert reply is not None
            assert (reply[0], len(reply[2])) == (number, 100_000)
        await sending


def asked_of(source: ScriptedSource) -> int:
    return sum(call.arguments[0].startswith("size") for call in source.calls)


async def send_gets(peer: RawPeer, count: int, key: str) -> None:
    for number in range(1, count + 1):
        peer.send(raw_get(number, key))
        await peer.drain()


async def test_a_flooding_client_does_not_starve_another(path: Path) -> None:
    async with serving(path) as source, raw_peer(path) as peer, connected(path) as client:
        flood = b"".join(raw_get(number, "flood") for number in range(1, 20_001))
        await get(client, "ready")
        for turn in range(10):
            peer.send(flood[turn * len(flood) // 10 : (turn + 1) * len(flood) // 10])
            before = len(source.calls)
            assert await get(client, "mine") == b"mine"
            assert len(source.calls) - before <= 6 * clients.TURN
        for _ in range(20_000):
            assert await peer.reply() is not None


async def test_a_client_that_ends_in_the_midst_leaves_nothing_behind(path: Path) -> None:
    async with serving(path) as source:
        for _ in range(20):
            async with raw_peer(path) as peer:
                peer.send(*(raw_get(number, "hold") for number in range(1, 11)), raw_get(11, "cut")[:9])
                await source.until(lambda: len(source.held) == 10)
            await source.until(lambda: len(source.cancelled) == 10)
            assert all(call.ended for call in source.held)
            source.release()  # answers for nobody
            source.held.clear()
            source.cancelled.clear()
        assert len(set(map(id, source.forgotten))) >= 1
        assert len(source.forgotten) == 20


class Impostor(asyncio.Protocol):
    """A proxy that greets, and then does what `behave` does with what it is sent."""

    def __init__(self, behave: Callable[[Impostor, bytes], None]):
        self._behave = behave
        self.greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.greeted:
            self._behave(self, data)
        else:
            self.greeted = True
            self.transport.write(frames.reply(0, Status.OK, frames.encode(frames.VERSION)))


async def test_a_proxy_that_does_not_read_gets_no_more_than_its_buffers_hold(path: Path) -> None:
    impostors: list[Impostor] = []

    def listen() -> Impostor:
        impostors.append(Impostor(lambda impostor, _: impostor.transport.pause_reading()))
        return impostors[-1]

    listening = await asyncio.get_running_loop().create_unix_server(listen, str(path))
    async with connected(path) as client:
        first = set_(client, "first")
        while not client._answers:
            await asyncio.sleep(0)
        answers = [set_(client, "key", bytes(100_000)) for _ in range(500)]
        for _ in range(10):
            await asyncio.sleep(0)
        for answer in answers:
            answer.cancel()
        await until(lambda: not client._waiting)
        transport = client._connection._transport  # type: ignore[union-attr]
        assert transport is not None
        assert transport.get_write_buffer_size() <= HIGH_WATER + 200_000
        first.cancel()
    listening.close()


async def test_garbage_from_the_proxy_ends_the_connection_and_a_new_one_is_made(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served: list[Impostor] = []

    def garbage(impostor: Impostor, _: bytes) -> None:
        impostor.transport.write(frames.reply(4000, Status.OK, b"for nobody") + b"\x00" * 50)

    def listen() -> Impostor:
        served.append(Impostor(garbage))
        return served[-1]

    listening = await asyncio.get_running_loop().create_unix_server(listen, str(path))
    lost: list[str] = []
    client = ProxyClient(path, HANDLERS, lost.append)
    client.start()
    read, write = get(client, "key"), set_(client, "key")
    assert (await end(read)).startswith("transient: ")  # type: ignore[arg-type]
    assert (await end(write)).startswith("unknown: ")  # type: ignore[arg-type]
    assert "does not speak as it should" in caplog.text
    assert (await end(get(client, "again"))).startswith("transient: ")  # type: ignore[arg-type]
    assert len(served) == 2
    assert set(lost) == {"the data source process ended the connection"}
    await client.close()
    listening.close()


async def test_a_proxy_of_another_version_is_tried_ever_more_seldom_and_calls_fail(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attempts: list[float] = []
    loop = asyncio.get_running_loop()

    class Refusing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            attempts.append(loop.time())
            transport.write(frames.reply(0, Status.REFUSED, b"the proxy speaks version 9"))  # type: ignore[attr-defined]

    listening = await loop.create_unix_server(Refusing, str(path))
    began = loop.time()
    async with connected(path) as client:
        assert await end(get(client, "key")) == "transient: the data source process is out of reach"
        assert loop.time() - began < PATIENCE_S + 0.5
        assert await end(get(client, "key")) == "transient: the data source process is out of reach"  # at once
        assert loop.time() - began < PATIENCE_S + 0.5
    assert len(attempts) < 15
    assert RECONNECT_S[1] == 0.5
    assert "the proxy speaks version 9" in str([vars(record).get("fields") for record in caplog.records])
    listening.close()


async def test_closing_the_server_leaves_a_successors_socket_alone(path: Path) -> None:
    old = Server(Sources(MemoryCache(1000), {}, {}), path)
    await old.start()
    async with serving(path):
        await old.close()
        async with connected(path) as client:
            assert await get(client, "key") == b"key"


async def test_a_socket_that_a_dead_process_has_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serving(path), connected(path) as client:
        assert await get(client, "key") == b"key"
    assert mode(path) is None
