"""The channel between master and child: words arrive, nothing waits, nothing grows."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from atmo_farm.ipc import channel
from atmo_farm.ipc.arena import SLOT_SIZE, SLOTS, Arena, Field
from atmo_farm.ipc.channel import ChildChannel, MasterChannel
from atmo_farm.ipc.heartbeat import Heartbeat
from atmo_farm.ipc.lines import PENDING_LIMIT, LineSocket
from atmo_farm.ipc.messages import (
    Command,
    Failed,
    LogLevel,
    Ready,
    ReopenLog,
    Waiting,
    decode_command,
    decode_event,
    encode,
)


@pytest.fixture
def ends() -> tuple[socket.socket, socket.socket]:
    return channel.pair()


def test_messages_go_both_ways(ends: tuple[socket.socket, socket.socket]) -> None:
    """Events reach the master's loop, commands the child's."""

    async def child(sock: socket.socket) -> list[Command]:
        commands: list[Command] = []
        lost = asyncio.Event()
        end = ChildChannel(sock)
        end.waiting("nats default", "refused")
        end.attach(commands.append, lost.set)
        end.ready()
        await lost.wait()
        end.close()
        return commands

    master = MasterChannel(ends[0], "echo/0")
    master.send(ReopenLog())
    master.send(LogLevel("debug"))

    async def both() -> list[Command]:
        task = asyncio.ensure_future(child(ends[1]))
        events: list[object] = []
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def readable() -> None:
            events.extend(master.receive())
            if len(events) == 2:
                done.set()

        loop.add_reader(master.fileno(), readable)
        await done.wait()
        assert events == [Waiting("nats default", "refused"), Ready()]
        loop.remove_reader(master.fileno())
        master.close()
        return await task

    assert asyncio.run(both()) == [ReopenLog(), LogLevel("debug")]


def test_the_last_word_of_a_failing_child_arrives(ends: tuple[socket.socket, socket.socket]) -> None:
    """`failed` needs no loop, and a long reason is cut, not refused."""
    child = ChildChannel(ends[1])
    child.failed("\x00" * 100_000)
    child.close()
    master = MasterChannel(ends[0], "echo/0")
    (event,) = master.receive()
    assert isinstance(event, Failed) and len(event.reason) == 2048
    assert master.receive() == [] and master.closed


def test_malformed_lines_are_logged_and_passed_over(
    ends: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    """The next good line is heard."""
    ends[1].sendall(b'\n[]\n{"event": []}\n{"event": "waiting", "on": 3}\n\xff\n' + encode(Ready()))
    with caplog.at_level(logging.WARNING):
        assert MasterChannel(ends[0], "echo/0").receive() == [Ready()]
    assert [record.getMessage() for record in caplog.records] == [
        "echo/0 sent a malformed line: Expecting value: line 1 column 1 (char 0) (5 at once)"
    ]


def test_an_endless_line_does_not_grow_the_reader(ends: tuple[socket.socket, socket.socket]) -> None:
    """It is counted once and skipped to its end."""
    lines = LineSocket(ends[0], 1000)
    got: list[bytes] = []
    for _ in range(50):
        ends[1].sendall(b"x" * 5000)
        got += lines.receive()
        assert len(lines._received) <= 1000
    ends[1].sendall(b"end\nshort\n" + b"y" * 1001 + b"\nlast\n")
    while b"last" not in got:
        got += lines.receive()
    assert got == [b"short", b"last"]
    assert lines.too_long == 2


def test_a_peer_that_does_not_read_costs_a_bounded_buffer(ends: tuple[socket.socket, socket.socket]) -> None:
    """Then sending is refused; when it reads again, what was accepted arrives whole and in order."""
    lines = LineSocket(ends[0], 1000)
    accepted = 0
    while lines.send(f"{accepted:0999d}\n".encode()):
        accepted += 1
        assert accepted * 1000 < PENDING_LIMIT + (4 << 20)
    assert lines.wants_write and not lines.closed
    reader = LineSocket(ends[1], 1000)
    got: list[bytes] = []
    while len(got) < accepted:
        got += reader.receive()
        lines.flush()
    assert [int(line) for line in got] == list(range(accepted))
    assert not lines.wants_write


def test_sending_to_one_who_is_gone_is_no_error(ends: tuple[socket.socket, socket.socket]) -> None:
    """The channel is closed then."""
    master = MasterChannel(ends[0], "echo/0")
    ends[1].close()
    master.send(ReopenLog())
    assert master.closed and master.receive() == []


def test_unknown_keys_are_passed_over() -> None:
    """A newer end may say more."""
    assert decode_event(b'{"event": "ready", "since": 3}') == Ready()
    assert decode_command(b'{"command": "log_level", "level": "info", "for": "x"}') == LogLevel("info")
    with pytest.raises(ValueError, match="unknown command"):
        decode_command(b'{"command": "ready"}')
    with pytest.raises(ValueError):
        decode_event(b"[" * 100_000)


def test_the_heart_beats_with_the_loop() -> None:
    """The first beat is at once."""
    slot = Arena().slot(0)

    async def beat() -> None:
        heartbeat = Heartbeat(slot)
        heartbeat.start()
        first = slot[Field.HEARTBEAT_NS]
        assert first > 0
        deadline = asyncio.get_running_loop().time() + 3
        while slot[Field.HEARTBEAT_NS] == first:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)
        heartbeat.stop()

    asyncio.run(beat())


def test_slots_do_not_overlap() -> None:
    """Each slot is its own 4 KiB, and the last one is inside."""
    arena = Arena()
    last = arena.slot(SLOTS - 1)
    last[SLOT_SIZE // 8 - 1] = 2**64 - 1
    assert not any(arena.slot(SLOTS - 2)) and not any(arena.slot(0))
    with pytest.raises(IndexError):
        arena.slot(SLOTS)
