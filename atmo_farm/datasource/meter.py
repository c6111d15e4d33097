"""How many bytes a server has sent: a driver that buffers a whole answer does not say so before it has it all."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios

_BYTES_RECEIVED = 128
"""Where tcpi_bytes_received, a u64, stands in Linux' struct tcp_info (since 4.1)."""

_CHUNK = 8192
"""A driver that left something in the socket has read at least so much."""


class Meter:
    """Of one open socket, which stays its owner's. `begin` before an answer; then `received` before each read."""

    def __init__(self, descriptor: int):
        self._socket = socket.socket(fileno=descriptor)
        self._is_tcp = self._socket.family in (socket.AF_INET, socket.AF_INET6)
        self._begun = self._waiting = 0

    def begin(self) -> None:
        """Count from here."""
        self._begun, self._waiting = self._total() if self._is_tcp else 0, 0

    def received(self) -> int:
        """Bytes since `begin`. Exact over TCP, with what TLS adds; the kernel does not count those of a Unix socket:
        there it is what must have come at least."""
        if self._is_tcp:
            return self._total() - self._begun
        before = self._waiting
        self._waiting = int.from_bytes(fcntl.ioctl(self._socket, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)
        self._begun += max(self._waiting - before, _CHUNK if before else 0, 0)
        return self._begun

    def release(self) -> None:
        """Before its owner closes the socket."""
        self._socket.detach()

    def _total(self) -> int:
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
        return int.from_bytes(info[_BYTES_RECEIVED:], sys.byteorder)
