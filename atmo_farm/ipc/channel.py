"""The two ends of the socketpair between the master and one child.

The master multiplexes its ends with `selectors`; a child hangs its end on its asyncio loop. Neither ever waits for the
other: a peer that does not read costs a bounded buffer, and after that what is sent to it is refused and logged.
The kernel closes the pair with the process, so the end of the stream is also how each learns that the other is gone.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from atmo_farm import log
from atmo_farm.ipc.lines import LineSocket
from atmo_farm.ipc.messages import (
    LINE_LIMIT,
    Ask,
    Command,
    Event,
    Failed,
    Ready,
    Waiting,
    decode_command,
    decode_event,
    encode,
)

logger = logging.getLogger("atmo_farm.ipc")

LAST_WORD_TIMEOUT_S = 0.5
"""How long a failing child waits for the master to take its reason."""

LINES_PER_S = 20
LINES_AT_ONCE = 1000
"""A child has a few words to say in its life; one that says more than this keeps the master from its work."""


def pair() -> tuple[socket.socket, socket.socket]:
    """A new socketpair: the master's end and the child's end."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class MasterChannel:
    """The master's end of one child's channel. `name` is the child, for log lines."""

    def __init__(self, sock: socket.socket, name: str):
        self._lines = LineSocket(sock, LINE_LIMIT)
        self._name = name
        self._limit = log.RateLimit(LINES_PER_S, LINES_AT_ONCE)
        self.flooded = False
        """The child says more than it may: nothing is heard any more."""

    def fileno(self) -> int:
        """The descriptor, so that a selector takes the channel itself."""
        return self._lines.fileno()

    @property
    def closed(self) -> bool:
        """Whether there is nothing more to be heard: the child's end is gone, or it was too much."""
        return self._lines.closed or self.flooded

    @property
    def wants_write(self) -> bool:
        """Whether the selector must watch for writability too, and then call `flush`."""
        return self._lines.wants_write

    def receive(self) -> list[Event]:
        """What the child has said since; a malformed line is logged and passed over."""
        return self._heard(self._lines.receive)

    def receive_rest(self) -> list[Event]:
        """The last words of a child that has ended."""
        return self._heard(self._lines.receive_rest)

    def send(self, command: Command) -> bool:
        """Tell the child; False when it does not read and too much waits: the command is dropped and logged."""
        sent = self._lines.send(encode(command))
        if not sent and not self._lines.closed:
            logger.warning("%s does not read its channel: command %s dropped", self._name, command.kind)
        return sent

    def flush(self) -> None:
        """Send what waits, as far as the child takes it now."""
        self._lines.flush()

    def close(self) -> None:
        """Close the master's end; a child that still lives sees it as the loss of its master."""
        self._lines.close()

    def _heard(self, receive: Callable[[], list[bytes]]) -> list[Event]:
        before = self._lines.too_long
        lines = receive()
        if not self._limit.allow(1 + len(lines)):  # 1: an endless line has no end that could be counted
            self.flooded = True
            return []
        events: list[Event] = []
        problems: list[str] = []
        for line in lines:
            try:
                events.append(decode_event(line))
            except ValueError as error:
                problems.append(str(error))
        if self._lines.too_long > before:
            problems.append(f"over {LINE_LIMIT} bytes")
        if problems:
            logger.warning("%s sent a malformed line: %s (%d at once)", self._name, problems[0], len(problems))
        return events


class ChildChannel:
    """The child's end: `ready`, `waiting` and `failed` may be called at any time, before `attach` too."""

    def __init__(self, sock: socket.socket):
        self._lines = LineSocket(sock, LINE_LIMIT)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_command: Callable[[Command], None] | None = None
        self._on_lost: Callable[[], None] | None = None

    def attach(self, on_command: Callable[[Command], None], on_lost: Callable[[], None]) -> None:
        """Read from the running loop on: `on_command` for each command, `on_lost` once when the master is gone."""
        self._loop = asyncio.get_running_loop()
        self._on_command, self._on_lost = on_command, on_lost
        self._loop.add_reader(self._lines.fileno(), self._readable)
        self._watch_writable()

    def ready(self) -> None:
        """Say that the child serves."""
        self._send(Ready())

    def waiting(self, on: str, reason: str) -> None:
        """Say that the child is up and cannot reach `on` (`nats default`)."""
        self._send(Waiting(on, reason))

    def ask(self, ask: Ask) -> None:
        """The monitor alone: want something of the master."""
        self._send(ask)

    def failed(self, reason: str) -> None:
        """Say why the child cannot boot; waits up to half a second for the master to take it. Exit with 10 after it."""
        self._send(Failed(reason))
        self._lines.flush_for(LAST_WORD_TIMEOUT_S)

    def close(self) -> None:
        """Detach from the loop and close."""
        if self._loop is not None and not self._lines.closed:
            self._loop.remove_reader(self._lines.fileno())
            self._loop.remove_writer(self._lines.fileno())
        self._loop = None
        self._lines.close()

    def _send(self, event: Event) -> None:
        if not self._lines.send(encode(event)) and not self._lines.closed:
            logger.warning("the master does not read its channel: event %s dropped", event.kind)
        self._watch_writable()

    def _watch_writable(self) -> None:
        if self._loop is not None and self._lines.wants_write:
            self._loop.add_writer(self._lines.fileno(), self._writable)

    def _writable(self) -> None:
        self._lines.flush()
        if self._loop is not None and not self._lines.wants_write:
            self._loop.remove_writer(self._lines.fileno())

    def _readable(self) -> None:
        assert self._loop is not None and self._on_command is not None and self._on_lost is not None
        for line in self._lines.receive():
            try:
                command = decode_command(line)
            except ValueError as error:
                logger.warning("the master sent a malformed line: %s", error)
                continue
            self._on_command(command)
        if self._lines.closed and self._loop is not None:
            loop, self._loop = self._loop, None
            loop.remove_reader(self._lines.fileno())
            loop.remove_writer(self._lines.fileno())
            self._on_lost()
