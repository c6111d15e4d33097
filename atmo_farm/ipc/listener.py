"""Sockets of the farm that others connect to."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

NO_DESCRIPTOR_S = 0.2
"""How long connections wait in the kernel when no descriptor is left for one, before the next look."""


class SocketFile:
    """A bound Unix socket and its file, 0600, in a folder of the farm's own; one that another process has left there is
    replaced."""

    def __init__(self, path: Path):
        path.unlink(missing_ok=True)
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self.socket.bind(str(path))
        except OSError:
            self.socket.close()
            raise
        finally:
            os.umask(before)
        self._inode = path.stat().st_ino

    def remove(self) -> None:
        """The file goes, unless a successor has put its own there."""
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass


class Acceptor:
    """Takes a listening socket's connections on the running loop; asyncio's own servers spin while no descriptor is
    left for one, and log each turn."""

    def __init__(self, listening: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]):
        listening.setblocking(False)
        self._socket = listening
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._go_on()

    def close(self) -> None:
        """Take no more; the socket stays open."""
        self._loop.remove_reader(self._socket.fileno())
        if self._pause is not None:
            self._pause.cancel()

    def _go_on(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            self._loop.remove_reader(self._socket.fileno())
            self._pause = self._loop.call_later(NO_DESCRIPTOR_S, self._go_on)
            return
        task = self._loop.create_task(self._begin(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()
