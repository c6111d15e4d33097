"""Driving a master as its user does: a process, signals, its log, the service manager's socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MONITOR = "atmo monitor/0"


class Driver:
    """One master under test, in a process of its own, that logs JSON lines to `folder`/log."""

    def __init__(self, folder: Path):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.events: list[dict[str, Any]] = []
        self._read_to = 0
        self.notifications: socket.socket | None = None

    def run(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start it: Python with these arguments."""
        notify = {"NOTIFY_SOCKET": str(self.folder / "notify")} if self.notifications is not None else {}
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**environ, **notify}
        )

    @property
    def pid(self) -> int:
        """The master's."""
        assert self.process is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        """Send the master a signal."""
        os.kill(self.pid, number)

    def children(self, worker: str = "") -> dict[int, str]:
        """pid → name of the master's children whose name begins so, as the kernel has them; zombies are left out, and
        the monitor if it is not asked for."""
        found = {}
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                alive = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
            except (FileNotFoundError, ProcessLookupError):
                continue
            if alive and name.startswith(f"atmo {worker}") and (worker or name != MONITOR):
                found[int(pid)] = name
        return found

    def wait_for(self, message: str, timeout_s: float = 10.0, **fields: Any) -> dict[str, Any]:
        """The next log line with this beginning and these fields, not looked at before."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._read_log()
            for at, event in enumerate(self.events):
                if event["message"].startswith(message) and fields.items() <= event.items():
                    del self.events[: at + 1]
                    return event
            assert self.process is not None
            if self.process.poll() is not None and not self._read_log():
                break
            time.sleep(0.01)
        raise AssertionError(f"no {message!r} {fields} in the log:\n{self.tail()}")

    def count(self, message: str, **fields: Any) -> int:
        """How many log lines there are with this beginning and these fields, since the start."""
        events = [json.loads(line) for line in whole_lines(self.log.read_bytes())]
        return sum(event["message"].startswith(message) and fields.items() <= event.items() for event in events)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Return when the condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.tail()
            time.sleep(0.01)

    def end(self, timeout_s: float = 10.0) -> int:
        """Wait for the master's end; returns its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it runs on after {timeout_s} s:\n{self.tail()}") from None

    def errors(self) -> str:
        """What it said on standard error, after its end."""
        assert self.process is not None and self.process.stderr is not None
        return self.process.stderr.read().decode()

    def tail(self) -> str:
        """The end of the log, and of standard error if it has ended."""
        ended = self.process is not None and self.process.poll() is not None
        return (self.log.read_text()[-4000:] if self.log.exists() else "(no log)") + (self.errors() if ended else "")

    def listen(self) -> None:
        """Have a notify socket, as the service manager has."""
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notifications.settimeout(20)
        self.notifications.bind(str(self.folder / "notify"))

    def notified(self) -> list[str]:
        """The lines of the next datagram."""
        assert self.notifications is not None
        return self.notifications.recv(4096).decode().splitlines()

    def states(self, until: str) -> list[str]:
        """All that the service manager is told up to a state, STATUS lines left out."""
        seen: list[str] = []
        while until not in seen:
            seen += [line for line in self.notified() if not line.startswith(("STATUS=", "MONOTONIC_USEC="))]
        return seen

    def close(self) -> None:
        """Leave nothing running."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.process.kill()
            self.process.wait()
            if self.process.stderr is not None:
                self.process.stderr.close()
        if self.notifications is not None:
            self.notifications.close()

    def _read_log(self) -> bool:
        if not self.log.exists():
            return False
        lines = whole_lines(self.log.read_bytes()[self._read_to :])
        self._read_to += sum(map(len, lines))
        self.events += [json.loads(line) for line in lines]
        return bool(lines)


def whole_lines(content: bytes) -> list[bytes]:
    """All but the last when that has no end yet: the farm may be about to write it."""
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
