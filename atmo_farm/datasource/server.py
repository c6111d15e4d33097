"""The proxy's Unix socket, on which other processes of the farm ask."""

from __future__ import annotations

import asyncio
from pathlib import Path

from atmo_farm.datasource.clients import ClientConnection
from atmo_farm.datasource.sources import Sources
from atmo_farm.ipc.listener import SocketFile


class Server:
    """The listening socket."""

    def __init__(self, sources: Sources, path: Path):
        self._sources = sources
        self._path = path
        self._connections: set[ClientConnection] = set()
        self._server: asyncio.Server | None = None
        self._file: SocketFile | None = None

    async def start(self) -> None:
        """Listen."""
        self._file = SocketFile(self._path)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: ClientConnection(self._sources, self._connections), sock=self._file.socket, backlog=1024
        )

    async def close(self) -> None:
        """Listen no more and end all connections."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            if connection.transport is not None:
                connection.transport.abort()
        if self._file is not None:
            self._file.remove()
