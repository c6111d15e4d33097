"""The control socket against clients of every kind, with verbs made for it; a real socket, the real server."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from atmo_farm import log
from atmo_farm.errors import NotFound
from atmo_farm.monitor import server
from atmo_farm.monitor.farm import Farm, Progress
from atmo_farm.monitor.server import CONNECTIONS, LINE_LIMIT, REQUESTS, Server

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Verbs:
    """`echo` answers with its request; `count` tells numbers for ever; `wait` waits for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0
        self.told = 0

    async def echo(self, _farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
        for number in range(args.get("steps", 0)):
            await progress({"step": number})
        return dict(args)

    async def count(self, _farm: Farm, _args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
        while True:
            await progress({"number": "x" * 1000})
            self.told += 1

    async def wait(self, _farm: Farm, _args: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
        self.waiting += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {"went": True}

    async def missing(self, _farm: Farm, _args: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
        raise NotFound("no such handler")

    async def broken(self, _farm: Farm, _args: Mapping[str, Any], _progress: Progress) -> Mapping[str, Any]:
        raise OSError("odd")


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Verbs]:
    verbs = Verbs()
    names = ("echo", "count", "wait", "missing", "broken")
    made = Server(path, cast(Farm, None), {name: getattr(verbs, name) for name in names})
    await made.start()
    try:
        yield verbs
    finally:
        await made.close()


def run(test: Callable[[Path, Verbs], Awaitable[None]], path: Path) -> None:
    async def main() -> None:
        async with serving(path) as verbs:
            await asyncio.wait_for(test(path, verbs), 20)

    asyncio.run(main())


async def ask(streams: Streams, **request: Any) -> list[dict[str, Any]]:
    """Send one request and read to its end."""
    streams[1].write(json.dumps({"id": 1, **request}).encode() + b"\n")
    answers = []
    while not answers or "progress" in answers[-1]:
        answers.append(await read(streams))
    return answers


async def read(streams: Streams) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await streams[0].readline())
    return answer


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_requests_and_answers(tmp_path: Path) -> None:
    """Progress in its order, one end for each request, errors with their exit code; several requests at once."""

    async def test(path: Path, verbs: Verbs) -> None:
        assert mode(path) == 0o600
        streams = await asyncio.open_unix_connection(path)
        *progress, end = await ask(streams, verb="echo", steps=3, id="seven")
        assert progress == [{"id": "seven", "progress": {"step": number}} for number in range(3)]
        assert end["result"] == {"id": "seven", "verb": "echo", "steps": 3, "uid": os.geteuid()}
        assert await ask(streams, verb="missing") == [{"id": 1, "error": "no such handler", "exit": 4}]
        (internal,) = await ask(streams, verb="broken")
        assert internal["exit"] == 70 and "OSError: odd" in internal["error"]
        streams[1].write(b'{"id": 2, "verb": "wait"}\n')
        assert (await ask(streams, verb="echo"))[0]["id"] == 1
        verbs.go.set()
        assert await read(streams) == {"id": 2, "result": {"went": True}}

    run(test, tmp_path / "control.sock")
    assert not (tmp_path / "control.sock").exists()


def test_errors_show_no_secret(tmp_path: Path) -> None:
    """Whatever a library puts into its words."""

    async def test(path: Path, _verbs: Verbs) -> None:
        log.redact(["such handler"])
        try:
            streams = await asyncio.open_unix_connection(path)
            assert await ask(streams, verb="missing") == [{"id": 1, "error": "no [redacted]", "exit": 4}]
        finally:
            log.redact([])

    run(test, tmp_path / "control.sock")


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"7", b'{"verb": "echo"}', b'{"id": [], "verb": "echo"}', b"\xff\xfe", b"[" * 30_000],
)
def test_what_is_no_request_is_answered(tmp_path: Path, line: bytes) -> None:
    """In words, and the connection goes on."""

    async def test(path: Path, _verbs: Verbs) -> None:
        streams = await asyncio.open_unix_connection(path)
        streams[1].write(line + b"\n")
        answer = await read(streams)
        assert answer["id"] is None and answer["exit"] == 2 and "no request" in answer["error"]
        (answer,) = await ask(streams, verb="sing")
        assert answer["error"] == "unknown verb; this farm knows echo, count, wait, missing, broken"
        assert "result" in (await ask(streams, verb="echo"))[0]

    run(test, tmp_path / "control.sock")


def test_a_line_without_end(tmp_path: Path) -> None:
    """It costs its own connection, with a word; half a line that stays half costs nothing."""

    async def test(path: Path, _verbs: Verbs) -> None:
        half, endless = await asyncio.open_unix_connection(path), await asyncio.open_unix_connection(path)
        half[1].write(b'{"id": 1, "ver')
        endless[1].write(b"x" * (LINE_LIMIT + 100_000))
        assert "over 65536 bytes" in (await read(endless))["error"]
        assert await endless[0].read() == b""
        assert "result" in (await ask(await asyncio.open_unix_connection(path), verb="echo"))[0]
        half[1].write(b'b": "echo"}\n')
        assert "result" in await read(half)

    run(test, tmp_path / "control.sock")


def test_a_client_that_never_reads_is_waited_for_and_then_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is meant for it stays bounded, others are served meanwhile, and its verb ends with it."""
    monkeypatch.setattr(server, "PATIENCE_S", 0.3)

    async def test(path: Path, verbs: Verbs) -> None:
        deaf = await asyncio.open_unix_connection(path, limit=1)
        deaf[1].write(b'{"id": 1, "verb": "count"}\n' * REQUESTS)
        await until(lambda: verbs.told > 0)
        assert "result" in (await ask(await asyncio.open_unix_connection(path), verb="echo"))[0]
        while True:
            told = verbs.told
            await asyncio.sleep(0.5)
            if told == verbs.told:
                break
        assert told < 2000  # 2 MB, nearly all of it in the kernel and in this client's reader
        await until(lambda: len(asyncio.all_tasks()) < REQUESTS)

    run(test, tmp_path / "control.sock")


def test_a_flood_of_requests(tmp_path: Path) -> None:
    """So many of one connection at once; what is over is answered so, all are answered, and others get their turn."""

    async def test(path: Path, verbs: Verbs) -> None:
        streams = await asyncio.open_unix_connection(path)
        streams[1].write(b"".join(b'{"id": %d, "verb": "wait"}\n' % number for number in range(3000)))
        assert "result" in (await ask(await asyncio.open_unix_connection(path), verb="echo"))[0]
        refused = [await read(streams) for _ in range(3000 - REQUESTS)]
        assert {answer["error"] for answer in refused} == {"over 16 requests at once"}
        assert verbs.waiting == REQUESTS
        verbs.go.set()
        assert sorted([(await read(streams))["id"] for _ in range(REQUESTS)]) == list(range(REQUESTS))

    run(test, tmp_path / "control.sock")


def test_the_idlest_connection_gives_way(tmp_path: Path) -> None:
    """Places never run out through clients that do nothing; through such that are busy they do, and that is said."""

    async def test(path: Path, verbs: Verbs) -> None:
        idle = [await asyncio.open_unix_connection(path) for _ in range(CONNECTIONS)]
        assert "result" in (await ask(idle[0], verb="echo"))[0]
        assert "result" in (await ask(await asyncio.open_unix_connection(path), verb="echo"))[0]
        assert await idle[1][0].read() == b""
        assert "result" in (await ask(idle[0], verb="echo"))[0]
        busy = [await asyncio.open_unix_connection(path) for _ in range(CONNECTIONS)]
        for streams in busy:
            streams[1].write(b'{"id": 1, "verb": "wait"}\n')
        await until(lambda: verbs.waiting == CONNECTIONS)
        late = await asyncio.open_unix_connection(path)
        assert "64 clients are busy" in (await read(late))["error"]
        busy[0][1].close()
        await until(lambda: verbs.cancelled == 1)
        assert "result" in (await ask(await asyncio.open_unix_connection(path), verb="echo"))[0]

    run(test, tmp_path / "control.sock")


def test_clients_that_do_not_read_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even as many of them as there are places keep others out."""
    monkeypatch.setattr(server, "DEAF_S", 0.1)

    async def test(path: Path, _verbs: Verbs) -> None:
        deaf = [await asyncio.open_unix_connection(path, limit=1) for _ in range(CONNECTIONS)]
        for streams in deaf:
            streams[1].write(b'{"id": 1, "verb": "count"}\n')
        while True:
            streams = await asyncio.open_unix_connection(path)
            (answer,) = await ask(streams, verb="echo")
            if "result" in answer:
                break
            assert "64 clients are busy" in answer["error"]
            await asyncio.sleep(0.05)

    run(test, tmp_path / "control.sock")


def test_a_client_that_goes_cancels_its_verb(tmp_path: Path) -> None:
    """A client that only says no more, as `socat` does at the end of its input, still gets its answer."""

    async def test(path: Path, verbs: Verbs) -> None:
        gone, silent = await asyncio.open_unix_connection(path), await asyncio.open_unix_connection(path)
        for streams in (gone, silent):
            streams[1].write(b'{"id": 1, "verb": "wait"}\n')
        silent[1].write_eof()
        await until(lambda: verbs.waiting == 2)
        gone[1].close()
        await until(lambda: verbs.cancelled == 1)
        verbs.go.set()
        assert await read(silent) == {"id": 1, "result": {"went": True}}
        assert await silent[0].read() == b""

    run(test, tmp_path / "control.sock")


def test_a_client_that_said_no_more_and_then_went_cancels_its_verb(tmp_path: Path) -> None:
    """Else as many of them as there are places would keep everybody out until their verbs end."""

    async def test(path: Path, verbs: Verbs) -> None:
        streams = await asyncio.open_unix_connection(path)
        streams[1].write(b'{"id": 1, "verb": "wait"}\n')
        streams[1].write_eof()
        await until(lambda: verbs.waiting == 1)
        await asyncio.sleep(0.05)  # the server has seen the end of what it says
        streams[1].close()
        await until(lambda: verbs.cancelled == 1)

    run(test, tmp_path / "control.sock")


def test_a_client_that_gave_way_costs_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it never reads what was already on its way."""
    monkeypatch.setattr(server, "DEAF_S", 0.1)
    monkeypatch.setattr(server, "CONNECTIONS", 1)

    async def test(path: Path, verbs: Verbs) -> None:
        before = descriptors()
        deaf = await asyncio.open_unix_connection(path, limit=1)
        deaf[1].write(b'{"id": 1, "verb": "count"}\n')
        await until(lambda: verbs.told > 100)
        while True:
            streams = await asyncio.open_unix_connection(path)
            if "result" in (await ask(streams, verb="echo"))[0]:
                break
            streams[1].close()
            await asyncio.sleep(0.05)
        await until(lambda: descriptors() <= before + 3)  # both ends of one, and one end of another

    run(test, tmp_path / "control.sock")


def test_the_end_leaves_a_moment_for_last_answers(tmp_path: Path) -> None:
    """Who can be answered is; who cannot is hung up on."""

    async def main() -> None:
        async with serving(tmp_path / "control.sock") as verbs:
            going, counting = [await asyncio.open_unix_connection(tmp_path / "control.sock") for _ in range(2)]
            going[1].write(b'{"id": 1, "verb": "wait"}\n')
            counting[1].write(b'{"id": 1, "verb": "count"}\n')
            await until(lambda: verbs.waiting == 1 and verbs.told > 0)
            verbs.go.set()
        assert await read(going) == {"id": 1, "result": {"went": True}}
        assert (await going[0].read(), (await counting[0].read())[-1:]) == (b"", b"\n")

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_user_is_refused(tmp_path: Path) -> None:
    """Even if the modes of folder and socket let it in."""

    def open_the_way(path: Path) -> None:
        path.chmod(0o777)
        for folder in [path.parent, *path.parent.parents]:
            if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
                folder.chmod(0o755)

    async def test(path: Path, _verbs: Verbs) -> None:
        open_the_way(path)
        code = (
            "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
            "s.connect(sys.argv[1]); print(s.makefile().read())"
        )
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code, str(path)], capture_output=True, timeout=15, check=True
        )
        assert json.loads(done.stdout) == {"id": None, "error": "user id 65534 may not control this farm", "exit": 5}

    run(test, tmp_path / "control.sock")


def test_only_this_user_and_root_are_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the kernel says of the peer; here it is made to say so."""

    async def test(path: Path, _verbs: Verbs) -> None:
        for uid, let_in in ((0, True), (os.geteuid(), True), (os.geteuid() + 1, False)):
            monkeypatch.setattr(server, "peer_uid", lambda _, uid=uid: uid)
            answer = (await ask(await asyncio.open_unix_connection(path), verb="echo"))[0]
            assert answer["result"]["uid"] == uid if let_in else "may not control this farm" in answer["error"]

    run(test, tmp_path / "control.sock")


def test_what_a_dead_monitor_left_is_replaced(tmp_path: Path) -> None:
    """A socket file that nobody listens at keeps no new one from its place."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def test(path: Path, _verbs: Verbs) -> None:
        assert "result" in (await ask(await asyncio.open_unix_connection(path), verb="echo"))[0]

    run(test, path)
