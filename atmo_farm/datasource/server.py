"""The proxy's Unix socket, on which other processes of the farm ask."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from atmo_farm.datasource.clients import ClientConnection
from atmo_farm.datasource.sources import Sources


class Server:
    """The listening socket, 0600 in a folder of the farm's own."""

    def __init__(self, sources: Sources, path: Path):
        self._sources = sources
        self._path = path
        self._connections: set[ClientConnection] = set()
        self._server: asyncio.Server | None = None
        self._file = 0
        """The inode of the socket's file."""

    async def start(self) -> None:
        """Listen; a socket file that another process has left is replaced."""
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: ClientConnection(self._sources, self._connections), str(self._path), backlog=1024
            )
        finally:
            os.umask(before)
        self._file = self._path.stat().st_ino

    async def close(self) -> None:
        """Listen no more and end all connections; the socket file goes, unless a successor has put its own there."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            if connection.transport is not None:
                connection.transport.abort()
        try:
            if self._path.stat().st_ino == self._file:
                self._path.unlink()
        except FileNotFoundError:
            pass
