"""The database's file: where it is, how it is made and opened, and whether it is still the one that was opened."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

import attrs

from atmo_farm.datasource.errors import Unreachable
from atmo_farm.datasource.sqlite.failures import failure, is_busy
from atmo_farm.directive.connections import DatabaseConnection

MEMORY = ":memory:"

WAL_WITHIN_S = 2.0
"""How long another process may keep the file from its change to WAL; it is used as it is then."""

Identity = tuple[int, int]


@attrs.frozen
class DatabaseFile:
    """`path` is absolute, or MEMORY."""

    path: str
    mode: str = "rwc"
    """`ro`: nothing is written; `rw`: it must be there; `rwc`: it is made when it is not."""

    @property
    def in_memory(self) -> bool:
        """Whether there is no file."""
        return self.path == MEMORY

    def make(self) -> None:
        """Make it, readable and writable by this user alone, unless it is there; Unreachable."""
        if self.in_memory or self.mode != "rwc" or Path(self.path).exists():
            return
        folder = Path(self.path).parent
        if not folder.is_dir():
            raise Unreachable(f"there is no folder {folder}: make it, writable by the farm's user")
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise Unreachable(f"{self.path} cannot be made: {_words(error)}") from error

    def identity(self) -> Identity:
        """Which file the path leads to now; Unreachable when to none."""
        if self.in_memory:
            return 0, 0
        try:
            found = os.stat(self.path)  # noqa: PTH116 - on the hot path
        except OSError as error:
            raise Unreachable(f"{self.path}: {_words(error)}") from error
        return found.st_dev, found.st_ino

    def open(self, *, reads: bool) -> sqlite3.Connection:
        """A connection, for use by one thread at a time; with `reads`, nothing can be written. Unreachable."""
        read_only = reads or self.mode == "ro"
        uri = MEMORY if self.in_memory else f"file:{quote(self.path)}?mode={'ro' if self.mode == 'ro' else 'rw'}"
        connection: sqlite3.Connection | None = None
        self.identity()  # the system's words for a file that is not there are better than SQLite's
        try:
            connection = sqlite3.connect(uri, timeout=0, isolation_level=None, check_same_thread=False, uri=True)
            connection.execute("PRAGMA foreign_keys=ON")
            if not self.in_memory and self.mode != "ro":
                _use_wal(connection)
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            if read_only:
                connection.execute("PRAGMA query_only=ON")
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise Unreachable(f"{self.path}: {failure(error)}") from None
        return connection


def file_of(connection: DatabaseConnection) -> DatabaseFile:
    """The file of a resolved connection."""
    assert connection.target is not None, "not resolved"
    path, mode = connection.target.path, connection.target.options.get("mode", "rwc")
    return DatabaseFile(MEMORY) if mode == "memory" or path == MEMORY else DatabaseFile(path, mode)


def _use_wal(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + WAL_WITHIN_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except sqlite3.Error as error:
            if not is_busy(error):
                raise
            if time.monotonic() > deadline:
                return
        time.sleep(0.01)


def _words(error: OSError) -> str:
    return (error.strerror or "input and output failed").lower()
