"""How many bytes a server has sent: a driver that buffers a whole answer does not say so before it has it all."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios

_BYTES_RECEIVED = 128
"""Where tcpi_bytes_received, a u64, stands in Linux' struct tcp_info (since 4.1)."""

_CHUNK = 8192
"""So much, or all that there is, a driver takes with one read at least."""


class Meter:
    """Of one open socket, which is another's: it must not be asked after that has closed it. `begin` before an answer
    can come; `received` before its reads."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        found = socket.socket(fileno=descriptor)
        self._family = found.family
        found.detach()
        self._is_tcp = self._family in (socket.AF_INET, socket.AF_INET6)
        self._begun = self._received = self._waiting = 0
        self._is_read = False

    def begin(self) -> None:
        """Count from here; what waits in the socket counts."""
        waiting = self._in_socket()
        if self._is_tcp:
            self._begun = self._total() - waiting
        else:
            self._received, self._waiting, self._is_read = waiting, waiting, False

    def received(self) -> int:
        """Bytes since `begin`, with what TLS adds. Exact over TCP; the kernel does not count those of a Unix socket:
        there it is what must have come at least."""
        if self._is_tcp:
            return self._total() - self._begun
        before, self._waiting = self._waiting, self._in_socket()
        read = min(before, _CHUNK) if self._is_read else 0
        self._received += max(0, self._waiting - before + read)
        self._is_read = True
        return self._received

    def _in_socket(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._descriptor, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)

    def _total(self) -> int:
        # A socket object that is kept would close the descriptor when it is collected, whosever that is by then.
        found = socket.socket(self._family, socket.SOCK_STREAM, 0, self._descriptor)
        try:
            info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
        finally:
            found.detach()
        return int.from_bytes(info[_BYTES_RECEIVED:], sys.byteorder)
