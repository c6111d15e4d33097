"""A Unix socket of the farm that others connect to: 0600, in a folder of the farm's own."""

from __future__ import annotations

import os
import socket
from pathlib import Path


class SocketFile:
    """A bound socket and its file; one that another process has left there is replaced."""

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
