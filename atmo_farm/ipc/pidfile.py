"""The pid file: says which process is the farm of a run folder, and lets there be only one."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from atmo_farm.errors import CannotStart

NAME = "atmo-farm.pid"

WRITE_WAIT_S = 0.5
"""How long a reader waits for a holder that has the lock and has not yet written its pid."""


class PidFile:
    """A locked file that holds this process's pid. The lock ends with the process, however it ends.

    The lock belongs to the open file, which a fork shares: every child must `close` its copy.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor = -1

    def acquire(self) -> None:
        """Lock and write; CannotStart with the holder's pid when another process has it, or why it cannot be used."""
        try:
            while self._descriptor < 0:
                self._lock()
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise CannotStart(
                f"{self.path} cannot be used as pid file: {error.strerror}; remove it, or name another folder with "
                "--run-dir"
            ) from error

    def release(self) -> None:
        """Remove the file, unless it is another's by now, then unlock."""
        if self._descriptor >= 0:
            try:
                if _is_same_file(self._descriptor, self.path):
                    self.path.unlink()
            except OSError:
                pass  # what stays there is unlocked, and harms nobody
            self.close()

    def close(self) -> None:
        """Close this process's copy; in a child, the master keeps the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _lock(self) -> None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = _read_pid(descriptor)
            os.close(descriptor)
            raise CannotStart(
                f"the folder {self.path.parent} is in use by the farm with pid {pid or '(starting)'}; stop that one "
                "first, or give this one other folders with --run-dir and --state-dir"
            ) from error
        if _is_same_file(descriptor, self.path):
            self._descriptor = descriptor
        else:
            os.close(descriptor)  # the former holder removed it between our open and our lock


def holder(path: Path) -> int | None:
    """The pid of the farm that holds a pid file; None if there is none: what stands in it may be long gone.

    Asks nothing of the file's lock, so that a farm which starts meanwhile is not refused because somebody looked.
    """
    try:
        pid = int(path.read_text())
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            if descriptor.exists() and descriptor.samefile(path):
                return pid
    except (OSError, ValueError):
        pass
    return None


def _read_pid(descriptor: int) -> str:
    deadline = time.monotonic() + WRITE_WAIT_S
    while not (content := os.pread(descriptor, 32, 0).strip()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return content.decode("ascii", "replace")


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
