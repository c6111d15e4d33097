"""What the service manager is told (sd_notify): datagrams that never wait.

A full socket drops a STATUS or WATCHDOG line. READY, RELOADING and STOPPING change what the manager does, so they are
kept and sent in their order, tried again by the master's loop.
"""

from __future__ import annotations

import math
import os
import socket
from collections import deque
from collections.abc import MutableMapping

from atmo_farm import clock

RETRY_S = 0.1
KEPT = 16
"""States that wait for the socket; older ones give way, for the last ones count."""

STATUS_LIMIT = 1024
"""Bytes of a STATUS text."""


class Notifier:
    """Sends to $NOTIFY_SOCKET; without one, does nothing. Takes the variables out of `environ`, for they are not meant
    for children."""

    def __init__(self, environ: MutableMapping[str, str]):
        address = environ.pop("NOTIFY_SOCKET", "")
        watchdog_us = environ.pop("WATCHDOG_USEC", "")
        watchdog_pid = environ.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        self._waiting: deque[bytes] = deque(maxlen=KEPT)
        self._status = ""
        self._watchdog_at = 0.0
        self.watchdog_s: float | None = None
        """How often `watchdog` must be called; None: never."""
        if self._socket and watchdog_us.isdecimal() and int(watchdog_us) and watchdog_pid in ("", str(os.getpid())):
            self.watchdog_s = int(watchdog_us) / 2e6

    def ready(self) -> None:
        """The farm serves; also the end of a reload."""
        self._send_surely(b"READY=1")

    def reloading(self) -> None:
        """A reload begins."""
        self._send_surely(b"RELOADING=1\nMONOTONIC_USEC=%d" % (clock.monotonic_ns() // 1000))

    def stopping(self) -> None:
        """The farm drains."""
        self._send_surely(b"STOPPING=1")

    def status(self, text: str) -> None:
        """One line for people; sent when it differs from the last one that went out."""
        printable = "".join(char if char.isprintable() else " " for char in text)
        line = printable.encode()[:STATUS_LIMIT].decode("utf-8", "ignore")
        if line != self._status and self._send(f"STATUS={line}".encode()):
            self._status = line

    def feed(self, now: float) -> float:
        """A step of the master's loop: `watchdog`, when it is due."""
        if self.watchdog_s is None:
            return math.inf
        if now >= self._watchdog_at:
            self.watchdog()
            self._watchdog_at = now + self.watchdog_s
        return self._watchdog_at

    def watchdog(self) -> None:
        """The master's loop turns."""
        self._send(b"WATCHDOG=1")

    def flush(self) -> bool:
        """Send the states that wait; False if some still do."""
        while self._waiting and self._send_now(self._waiting[0]):
            self._waiting.popleft()
        return not self._waiting

    def close(self) -> None:
        """Close the socket; in a child, the master keeps its own."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send_surely(self, state: bytes) -> None:
        if self._socket is not None:
            self._waiting.append(state)
            self.flush()

    def _send(self, line: bytes) -> bool:
        return self.flush() and self._send_now(line)

    def _send_now(self, content: bytes) -> bool:
        """Whether it went out, or never can: only a full socket is worth another try."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto(content, self._address)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        return True
