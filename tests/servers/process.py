"""One server process: started, waited for, killed, stopped, stopped for a while, and never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def free_ports(count: int) -> list[int]:
    """So many different loopback ports that nobody listens on at the moment."""
    with contextlib.ExitStack() as probes:
        found = []
        for _ in range(count):
            probe = probes.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found.append(int(probe.getsockname()[1]))
        return found


def free_port() -> int:
    """One."""
    return free_ports(1)[0]


def _die_with_the_tests() -> None:
    """In the child, before exec: SIGKILL when the thread that started it is gone, whatever ended it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def until_stopped(pid: int) -> None:
    """Return when a process that got SIGSTOP stands still: its threads go on for a moment, and may answer a request."""
    while any(_state(task) not in "TtZX" for task in Path(f"/proc/{pid}/task").iterdir()):
        time.sleep(0.001)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended
        return "X"


class ServerProcess:
    """A command that listens on a loopback port; its output goes to `folder`/server.log.

    The port stays the same over a restart. Start it from a thread that outlives its use (PDEATHSIG follows the thread).
    `account`: the user that it runs as when the tests run as root, for servers that refuse to be root.
    """

    def __init__(self, command: Sequence[str], port: int, folder: Path, account: str | None = None) -> None:
        self.command = tuple(command)
        self.account = account if os.geteuid() == 0 else None
        self.port = port
        self.folder = folder
        self.log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, ready_within_s: float = 10.0) -> None:
        """Start it and return when its port accepts connections; AssertionError with its log when it does not."""
        assert not self.running, "already running"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_the_tests,  # after the change of user, which would undo it
                user=self.account,
                group=self.account and pwd.getpwnam(self.account).pw_gid,
                extra_groups=self.account and [],
            )
        deadline = time.monotonic() + ready_within_s
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{self.command[0]} is not ready on port {self.port}:\n{self.log.read_text()}")
            time.sleep(0.005)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; the port refuses connections from then on."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again on the same port and folder."""
        self.kill()
        self.start()

    def stop(self, within_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL when it does not end in time."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def pause(self) -> None:
        """SIGSTOP: the kernel still accepts connections and bytes for it, but nobody answers (half open)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        until_stopped(self._process.pid)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
