"""History and rollback of a real farm, by the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import nats

from tests.farm import Farm, nats_directive, write_app, write_directive
from tests.servers.nats import NatsServer

HANDLER = """
resource: {resource}
name: asked
steps: [{{fn: {function}}}]
"""
IN_FORCE = "reload: in force"


def ask(server: NatsServer, subject: str = "ask") -> bytes:
    async def body() -> bytes:
        client = await nats.connect(server.url)
        try:
            return (await client.request(subject, b"you", timeout=10)).data
        finally:
            await client.close()

    return asyncio.run(body())


def test_a_rollback(tmp_path: Path, nats_server: NatsServer) -> None:
    """To the generation before, modules and all, whatever the user's folder holds; it holds over a restart of the farm,
    until the next reload. The history tells of each generation; what cannot be gone back to is refused."""

    def directive(function: str, resource: str = "ask") -> str:
        return nats_directive(nats_server.url, HANDLER.format(function=function, resource=f"rollback.{resource}"))

    app = write_app(tmp_path / "app", directive("hello"), ("c", "hello"), ("c", "upper-case"))
    subject = "rollback.ask"
    with Farm(app) as farm:
        done = farm.operate("rollback")
        assert done.exit_code == 5 and "refused: no generation before 1 is kept; generation 1 goes on" in done.stderr
        write_directive(app, directive("upper-case"))
        assert farm.operate("reload", "--wait").exit_code == 0
        assert ask(nats_server, subject) == b"YOU"
        (app / "hello" / "hello.wasm").unlink()  # the user's files do not matter
        done = farm.operate("rollback")
        assert done.exit_code == 0 and done.stdout.startswith("generation 3 is in force: "), farm.tail()
        assert ask(nats_server, subject) == b"hello, you"
        assert "rolled back to generation 1, until the next reload" in farm.operate("status").stdout
        done = farm.operate("rollback", "17")
        assert done.exit_code == 5 and "generation 17 is not kept; there is 1, 2, 3" in done.stderr
        assert farm.operate("rollback").exit_code == 5  # nothing before 1
        told = json.loads(farm.operate("history", "--json").stdout)
        assert [(one["generation"], one["in_force"], one.get("repeats"), one["kept"]) for one in told] == [
            (3, True, 1, True), (2, False, None, True), (1, False, None, True)
        ]  # fmt: skip
        assert [one["cause"].partition(" by")[0] for one in told] == ["rollback", "reload", "start"]
        assert told[0]["changes"] == told[1]["changes"] == "handlers: ~asked"
        lines = farm.operate("history").stdout.splitlines()
        assert len(lines) == 4 and "in force, repeats 1, kept" in lines[1]
        assert farm.stop() == 0
        write_app(app, directive("upper-case"), ("c", "hello"))
        farm.start()
        shown = farm.operate("status", "--wait", "ready").stdout
        assert "generation 4" in shown and "rolled back to generation 1, until the next reload" in shown
        assert ask(nats_server, subject) == b"hello, you"
        assert farm.operate("reload", "--wait").exit_code == 0
        assert ask(nats_server, subject) == b"YOU"
        assert "rolled back" not in farm.operate("status").stdout
        assert farm.operate("rollback", "2").exit_code == 0
        assert ask(nats_server, subject) == b"YOU"


def test_a_rollback_that_does_not_get_ready(tmp_path: Path, start_nats: Callable[[str], NatsServer]) -> None:
    """A stream that is gone meanwhile: taken back, and the history says why."""
    server = start_nats("jetstream: enabled")

    def stream(name: str, delete: bool = False) -> None:
        async def body() -> None:
            client = await nats.connect(server.url)
            js = client.jetstream()
            await (js.delete_stream(name) if delete else js.add_stream(name=name, subjects=[f"{name}.>"]))
            await client.close()

        asyncio.run(body())

    def directive(name: str) -> str:
        return nats_directive(server.url, f"resource: {name}.>\ndurable: work\nname: work\nsteps: [{{fn: hello}}]")

    stream("A")
    stream("B")
    app = write_app(tmp_path / "app", directive("A"), ("c", "hello"))
    with Farm(app) as farm:
        write_directive(app, directive("B"))
        assert farm.operate("reload", "--wait").exit_code == 0
        stream("A", delete=True)
        done = farm.operate("rollback")
        assert done.exit_code == 5 and "generation 3 was rolled back: work/0 cannot boot" in done.stderr, done.stderr
        told = json.loads(farm.operate("history", "--json").stdout)
        assert "work/0 cannot boot" in told[0]["refused"] and told[1]["in_force"] and not told[0]["kept"]
        assert "rolled back to generation" not in farm.operate("status").stdout
