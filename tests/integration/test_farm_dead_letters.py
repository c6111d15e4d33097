"""From a message that fails to its replay, through a real farm and the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from click.testing import Result
from nats.aio.client import Client

from atmo_farm.errors import AtmoFarmError
from atmo_farm.ipc.control import ControlClient
from tests.farm import Farm, nats_directive, wait_for, write_app, write_directive
from tests.servers.nats import NatsServer

PAYLOAD = b"404 \x1b[31mgone\xff"

BAD = "name: bad\nresource: orders.*\nworkers: 2\nsteps: [{fn: %s}]\nrespondTo: {source: nats, resource: out.bad}"
OTHER = "name: other\nresource: orders.*\nsteps: [{fn: hello}]\nrespondTo: {source: nats, resource: out.other}"
OFF = "name: none\nresource: none\ndeadLetter: off\nsteps: [{fn: hello}]"

DURABLE = """
name: work
resource: in.>
durable: work
workers: 2
jetstream: {ackWait: 2s}
retry: {attempts: 2, initialDelay: 20ms, on: [trap]}
deadLetter: {resource: dead.work}
steps: [{fn: trapping}]
respondTo: {source: nats, resource: out.work}
"""


def dlq(farm: Farm, *arguments: str) -> Result:
    return farm.operate("dlq", *arguments)


def listed(farm: Farm, handler: str, *arguments: str) -> list[dict[str, Any]]:
    shown = dlq(farm, "list", handler, "--json", *arguments)
    assert shown.exit_code == 0, shown.output
    return [json.loads(line) for line in shown.stdout.splitlines()]


def letters(farm: Farm, handler: str, count: int) -> list[dict[str, Any]]:
    """So many, once they are there."""
    return wait_for(
        lambda: (found := listed(farm, handler, "--limit", "100000")) and len(found) == count and found,
        otherwise=farm.tail,
    )  # type: ignore[no-any-return]


@asynccontextmanager
async def client_of(server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(server.url)
    try:
        yield client
    finally:
        await client.close()


async def next_of(subscription: Any, count: int) -> list[bytes]:
    return [(await subscription.next_msg(timeout=20)).data for _ in range(count)]


@pytest.mark.parametrize("kept_by", ["a stream", "the spool"])
def test_from_failure_to_replay(
    kept_by: str, tmp_path: Path, start_nats: Callable[..., NatsServer], start_jetstream: Callable[[], NatsServer]
) -> None:
    """A function fails; its messages are listed, shown and, when it is repaired, replayed to it and to nobody else."""
    server = start_jetstream() if kept_by == "a stream" else start_nats()
    guests = [("c", name) for name in ("failing", "hello")]
    app = write_app(tmp_path / "app", nats_directive(server.url, BAD % "failing", OTHER, OFF), *guests)

    async def body(farm: Farm) -> None:
        async with client_of(server) as client:
            repaired, others = await client.subscribe("out.bad"), await client.subscribe("out.other")
            for number in range(4):
                headers = {"X-Way": "a", "Traceparent": "00-1"}
                await client.publish(f"orders.{number}", b"%b%d" % (PAYLOAD, number), headers=headers)
            assert len(await next_of(others, 4)) == 4
            found = letters(farm, "bad", 4)
            assert {letter["origin"] for letter in found} == {f"orders.{number}" for number in range(4)}
            _shows(farm, next(letter for letter in found if letter["origin"] == "orders.2"))
            _refuses(farm)
            write_directive(app, nats_directive(server.url, BAD % "hello", OTHER, OFF))
            os.kill(farm.pid, signal.SIGHUP)
            farm.wait_notified("READY=1")
            one = found[0]
            assert dlq(farm, "replay", "bad", one["id"]).stdout == "1 replayed\n"
            assert await next_of(repaired, 1) == [b"hello, %b%b" % (PAYLOAD, one["origin"][-1].encode())]
            assert dlq(farm, "replay", "bad", "--match", "origin=orders.9").stdout == "0 replayed\n"
            assert dlq(farm, "replay", "bad", "--dry-run").stdout == "3 would be replayed\n"
            assert dlq(farm, "replay", "bad", "--to", "orders.elsewhere", "--limit", "1").stdout == "1 replayed\n"
            assert len(await next_of(repaired, 1)) == 1
            assert len(await next_of(others, 1)) == 1, "to another subject it is for everybody"
            _one_at_a_time(farm)
            assert len(await next_of(repaired, 2)) == 2
            assert not others.pending_msgs
            empty = dlq(farm, "list", "bad")
            assert (empty.exit_code, empty.stdout, empty.stderr) == (0, "", "bad has no dead letters\n")
            server.stop()
            away = dlq(farm, "list", "bad")
            assert away.exit_code == 5
            assert "nats default is out of reach" in away.stderr

    with Farm(app) as farm:
        asyncio.run(asyncio.wait_for(body(farm), 60))


def _shows(farm: Farm, letter: dict[str, Any]) -> None:
    assert (letter["cause"], letter["code"], letter["function"]) == ("error", "404", "failing")
    assert (letter["attempts"], letter["replays"], letter["size"]) == (1, 0, len(PAYLOAD) + 1)
    shown = dlq(farm, "show", "bad", letter["id"])
    assert "\x1b" not in shown.stdout
    assert "origin:      orders.2\n" in shown.stdout
    assert "X-Way: a\nTraceparent: 00-1\n" in shown.stdout
    assert "34 30 34 20 1b" in shown.stdout, "what is no text is shown in hexadecimal"
    assert dlq(farm, "show", "bad", letter["id"], "--raw").stdout_bytes == PAYLOAD + b"2"
    whole = json.loads(dlq(farm, "show", "bad", letter["id"], "--json").stdout)
    assert whole["headers"] == [["X-Way", "a"], ["Traceparent", "00-1"]]
    assert whole["told"]["generation"] == "1"
    table = dlq(farm, "list", "bad").stdout.splitlines()
    assert len(table) == 5 and table[0].split() == [
        "id", "when", "origin", "cause", "code", "attempts", "replays", "size", "text",
    ]  # fmt: skip
    assert [found["origin"] for found in listed(farm, "bad", "--match", "origin=*.2")] == ["orders.2"]
    assert len(listed(farm, "bad", "--match", "cause=error", "--match", "gone")) == 4
    assert len(listed(farm, "bad", "--since", "10m")) == 4
    assert listed(farm, "bad", "--since", "2999-01-01T00:00:00Z") == []
    some = dlq(farm, "list", "bad", "--limit", "3")
    assert len(some.stdout.splitlines()) == 4
    assert "there are more" in some.stderr


def _one_at_a_time(farm: Farm) -> None:
    """While letters are replayed nobody else may. Whoever goes away in the middle has replayed what had its turn."""
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(farm.folder / "run" / "control.sock"))
        slow.sendall(b'{"id": 1, "verb": "dlq.replay", "handler": "bad", "rate": 0.001}\n')
        assert json.loads(slow.recv(1000)) == {"id": 1, "progress": {"stage": "reading"}}, "a client waits 10 s for it"
        letters(farm, "bad", 1)
        refused = dlq(farm, "purge", "bad", "--all")
        assert (refused.exit_code, "being replayed or purged already" in refused.stderr) == (5, True)
        assert dlq(farm, "purge", "bad", "--all", "--dry-run").stdout == "1 would be purged\n"
    wait_for(lambda: dlq(farm, "replay", "bad", "--rate", "100/s").stdout == "1 replayed\n")


def _refuses(farm: Farm) -> None:
    with ControlClient(farm.folder / "run" / "control.sock") as client:
        for args in ({"match": [""]}, {"since": float("nan")}, {"since": -1e300}, {"rate": 0}, {"limit": -1}):
            with pytest.raises(AtmoFarmError, match="not understood") as odd:
                client.ask("dlq.purge", {"handler": "bad", **args})
            assert odd.value.exit_code == 2
    for arguments, code, said in (
        (("list", "bda"), 4, "there is no handler 'bda'; did you mean bad?"),
        (("list", "none"), 4, "the handler none keeps no dead letters (`deadLetter: off`)"),
        (("show", "bad", "999999"), 4, "bad has no dead letter '999999'"),
        (("replay", "bad", "../../x"), 4, "bad has no dead letter"),
        (("purge", "bad"), 2, "--all"),
        (("purge", "bad", "1", "--since", "1h"), 2, "an ID is one letter"),
        (("replay", "bad", "--to", "a b"), 2, "a subject is tokens"),
        (("list", "bad", "--since", "yesterday"), 2, "neither a duration"),
        (("list", "bad", "--since", "nan"), 2, "neither a duration"),
        (("replay", "bad", "--rate", "fast"), 2, "is no rate"),
        (("replay", "bad", "--rate", "nan"), 2, "is no rate"),
        (("replay", "bad", ""), 2, "it is empty"),
        (("replay", "bad", "--to", ""), 2, "it is empty"),
        (("purge", "bad", "--match", " "), 2, "it is empty"),
    ):
        refused = dlq(farm, *arguments)
        assert (refused.exit_code, said in refused.stderr) == (code, True), refused.output


@pytest.mark.fault(row="1 % poison messages")
@pytest.mark.timeout(600)
def test_poison(tmp_path: Path, start_jetstream: Callable[[], NatsServer], amount: Callable[[int, int], int]) -> None:
    """One in a hundred traps: each is tried as often as it may be and is in the dead letters once; all others come out.
    Replayed, they die again with their count, until they were replayed too often. Then they are purged."""
    server, count = start_jetstream(), amount(400, 20_000)
    app = write_app(tmp_path / "app", nats_directive(server.url, DURABLE), ("c", "trapping"))

    async def streams() -> None:
        async with client_of(server) as client:
            for name in ("in", "out", "dead"):
                await client.jetstream().add_stream(name=name.upper(), subjects=[f"{name}.>"])

    async def body(farm: Farm) -> None:
        async with client_of(server) as client:
            js = client.jetstream()
            for number in range(count):
                await js.publish("in.a", b"unreachable" if number % 100 == 7 else b"%d" % number)
            while (await js.stream_info("OUT")).state.messages < count - count // 100:
                await asyncio.sleep(0.05)
            found = letters(farm, "work", count // 100)
            assert {letter["attempts"] for letter in found} == {2}
            assert {letter["cause"] for letter in found} == {"trap"}
            assert len({letter["message"] for letter in found}) == count // 100
            while (await js.consumer_info("IN", "work")).num_ack_pending:
                await asyncio.sleep(0.05)
            assert (await js.stream_info("OUT")).state.messages == count - count // 100
            for replays in (1, 2):
                assert dlq(farm, "replay", "work", "--max-replays", "2").exit_code == 0
                again = letters(farm, "work", count // 100)
                assert {letter["replays"] for letter in again} == {replays}
            last = dlq(farm, "replay", "work", "--max-replays", "2")
            assert last.stdout == f"0 replayed, {count // 100} passed over, replayed too often\n"
            assert dlq(farm, "purge", "work", "--match", "cause=trap").stdout == f"{count // 100} purged\n"
            assert listed(farm, "work") == []

    asyncio.run(streams())
    with Farm(app) as farm:
        asyncio.run(asyncio.wait_for(body(farm), 60 + count / 50))


@pytest.mark.fault(row="dead-letter target down")
def test_a_dead_letter_target_that_takes_nothing(tmp_path: Path, start_jetstream: Callable[[], NatsServer]) -> None:
    """Nothing is lost and nothing acknowledged, also over a kill -9; when it takes letters again each is there once."""
    server = start_jetstream()
    app = write_app(tmp_path / "app", nats_directive(server.url, DURABLE), ("c", "trapping"))

    async def body(farm: Farm) -> None:
        async with client_of(server) as client:
            js = client.jetstream()
            for _ in range(3):
                await js.publish("in.a", b"unreachable")
            farm.wait_log(message="dead letter not accepted")
            assert (await js.consumer_info("IN", "work")).num_ack_pending == 3
            for pid in farm.children():
                os.kill(pid, signal.SIGKILL)
            lines = len(farm.log(message="dead letter not accepted"))
            wait_for(lambda: len(farm.log(message="dead letter not accepted")) > lines, otherwise=farm.tail)
            await js.publish("in.a", b"alive")
            await js.update_stream(name="DEAD", subjects=["dead.>"], max_msgs=-1, discard="new")
            found = letters(farm, "work", 3)
            assert len({letter["message"] for letter in found}) == 3
            while (await js.consumer_info("IN", "work")).num_ack_pending:
                await asyncio.sleep(0.05)
            assert (await js.stream_info("OUT")).state.messages == 1

    async def streams() -> None:
        async with client_of(server) as client:
            for name in ("in", "out"):
                await client.jetstream().add_stream(name=name.upper(), subjects=[f"{name}.>"])
            await client.jetstream().add_stream(name="DEAD", subjects=["dead.>"], max_msgs=1, discard="new")
            await client.jetstream().publish("dead.of.others", b"")

    asyncio.run(streams())
    with Farm(app) as farm:
        asyncio.run(asyncio.wait_for(body(farm), 100))
