"""One end of a socketpair that carries lines, with bounds in both directions and never a wait."""

from __future__ import annotations

import select
import socket
import time

READ_SIZE = 64 << 10
"""Bytes read at most for one readable event, so that one talkative peer cannot hold the reader's loop."""

PENDING_LIMIT = 256 << 10
"""Bytes that may wait for a peer that does not read; what goes beyond is refused."""


class LineSocket:
    """A non-blocking stream socket, cut into lines. It owns the socket."""

    def __init__(self, sock: socket.socket, line_limit: int):
        sock.setblocking(False)
        self._socket = sock
        self._line_limit = line_limit
        self._received = bytearray()
        self._skipping = False
        self._pending = bytearray()
        self.closed = False
        """The peer is gone, or this end was closed."""
        self.too_long = 0
        """Lines that were passed over because they were longer than the limit."""

    def fileno(self) -> int:
        """The descriptor to watch."""
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether something waits until the peer has read."""
        return bool(self._pending) and not self.closed

    def receive(self) -> list[bytes]:
        """The whole lines that have come, without their ends; sets `closed` when the peer is gone."""
        return self._cut(self._read())

    def receive_rest(self) -> list[bytes]:
        """All that a peer has left behind that has ended."""
        lines: list[bytes] = []
        while data := self._read():
            lines += self._cut(data)
        return lines

    def send(self, line: bytes) -> bool:
        """Send the line, now or as the peer reads; False if too much waits already, or the peer is gone."""
        if self.closed or len(self._pending) + len(line) > PENDING_LIMIT:
            return False
        self._pending += line
        self.flush()
        return not self.closed

    def flush(self) -> None:
        """Send what waits, as far as the peer takes it now."""
        try:
            while self._pending and not self.closed:
                del self._pending[: self._socket.send(self._pending, socket.MSG_NOSIGNAL)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.closed = True

    def flush_for(self, timeout_s: float) -> None:
        """Send what waits, and wait for a slow peer so long; only for a process that is about to end."""
        deadline = time.monotonic() + timeout_s
        self.flush()
        while self.wants_write and (left_s := deadline - time.monotonic()) > 0:
            poller = select.poll()
            poller.register(self._socket, select.POLLOUT)
            poller.poll(left_s * 1000)
            self.flush()

    def close(self) -> None:
        """Close the socket; what waits is lost."""
        self.closed = True
        self._socket.close()

    def _read(self) -> bytes:
        """What is there, empty if there is nothing; sets `closed` when the peer is gone."""
        if self.closed:
            return b""
        try:
            data = self._socket.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            data = b""
        self.closed = not data
        return data

    def _cut(self, data: bytes) -> list[bytes]:
        """The lines that are whole with these bytes; the rest is kept."""
        self._received += data
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        if lines and self._skipping:
            del lines[0]  # the end of a line that was counted when it grew too long
            self._skipping = False
        whole = [bytes(line) for line in lines if len(line) <= self._line_limit]
        self.too_long += len(lines) - len(whole)
        if len(rest) > self._line_limit and not self._skipping:
            self.too_long += 1
            self._skipping = True
        if self._skipping:
            self._received.clear()
        return whole
