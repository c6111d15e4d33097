"""Where lines go. A target never waits: it takes a whole line now or refuses it."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from atmo_farm.errors import CannotStart

JOURNAL_SOCKET = "/run/systemd/journal/socket"


class Target(Protocol):
    """One place for lines."""

    def write(self, line: bytes) -> bool:
        """Whether the line was taken; never raises."""

    def reopen(self) -> str:
        """Open it anew; returns what was wrong, or nothing."""

    def close(self) -> None:
        """Give the descriptor back."""


class _Descriptor:
    """Writing whole lines to a descriptor.

    Polling comes first, because not every descriptor can be made non-blocking for this process alone; a pipe that
    polls writable takes 4,096 bytes. A line that went out in part is ended before the next, and counts as refused.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._socket = socket.socket(fileno=descriptor) if stat.S_ISSOCK(os.fstat(descriptor).st_mode) else None
        self._torn = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, line: bytes) -> bool:
        try:
            if not any(events & select.POLLOUT for _, events in self._poll.poll(0)):
                return False
            if self._torn:
                if self._send(b"\n") != 1:
                    return False
                self._torn = False
            written = self._send(line)
        except (OSError, ValueError):
            return False
        self._torn = 0 < written < len(line)
        return written == len(line)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._descriptor)

    def _send(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return os.write(self._descriptor, data)


class NoTarget:
    """Where there is nothing to write to: before `configure`, or with standard error closed."""

    def write(self, line: bytes) -> bool:  # noqa: ARG002
        """Refuses every line."""
        return False

    def reopen(self) -> str:
        """There is nothing to open."""
        return ""

    def close(self) -> None:
        """There is nothing to close."""


class StreamTarget(_Descriptor):
    """Standard error, whatever stands behind it. The descriptor itself stays as it is: others share it."""

    def __init__(self, descriptor: int):
        super().__init__(_own_description(descriptor))

    def reopen(self) -> str:
        """There is nothing to open."""
        return ""


class FileTarget:
    """A file that is appended to, 0600 when it is made here."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._open = _Descriptor(self._open_file())
        except OSError as error:
            raise CannotStart(
                f"the log file {path} cannot be opened: {error.strerror}; name another with ATMO_LOG_FILE or log.file"
            ) from error

    def write(self, line: bytes) -> bool:
        """Whether the line was taken."""
        return self._open.write(line)

    def reopen(self) -> str:
        """The file of that name as it is now; the one so far stays open if that fails."""
        try:
            opened = _Descriptor(self._open_file())
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        self._open.close()
        self._open = opened
        return ""

    def close(self) -> None:
        """Give the descriptor back."""
        self._open.close()

    def _open_file(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(self._path, flags, 0o600)


class JournalTarget:
    """systemd's journal by its native protocol: one datagram per line."""

    def __init__(self, path: str):
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def write(self, line: bytes) -> bool:
        """Whether the journal took it; it is addressed anew each time, so that its restart does not matter."""
        try:
            return self._socket.sendto(line, self._path) == len(line)
        except OSError:
            return False

    def reopen(self) -> str:
        """There is nothing to open."""
        return ""

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()


def standard_error() -> Target:
    """The target of descriptor 2, if it is open."""
    try:
        return StreamTarget(2)
    except OSError:
        return NoTarget()


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether systemd says that this very descriptor leads to the journal."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def takes_entries(path: str) -> bool:
    """Whether the journal's socket is within reach; a service with a root folder of its own may not see it."""
    return os.access(path, os.W_OK)


def _own_description(descriptor: int) -> int:
    """The same pipe or terminal opened once more, non-blocking for this farm alone; else a duplicate.

    Between a poll and a write another process may fill a pipe. Setting O_NONBLOCK on what was inherited would set it
    for the shell and for everybody else who has it.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{descriptor}", flags)
        except OSError:
            pass
    return os.dup(descriptor)
