"""Driving a master as its user does: a process, signals, its log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FAST = {"heartbeat_timeout_s": 1.0, "drain_deadline_s": 2.0, "boot_timeout_s": 2.0, "load_timeout_s": 5.0}


class Farm:
    """One master under test, in a process of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.events: list[dict[str, Any]] = []
        self._read_to = 0
        self.notifications: socket.socket | None = None
        self.settings(**FAST)

    def settings(self, **settings: Any) -> None:
        (self.folder / "settings.json").write_text(json.dumps(settings))

    def app(self, **content: Any) -> None:
        """Replace the application: `handlers={"echo": {"behaviour": "ok", "workers": 2}}`."""
        unfinished = self.folder / "app.unfinished"
        unfinished.write_text(json.dumps(content))
        unfinished.rename(self.folder / "app.json")

    def start(self, **handlers: Any) -> None:
        if handlers:
            self.app(handlers=handlers)
        environ = dict(os.environ)
        if self.notifications is not None:
            environ["NOTIFY_SOCKET"] = str(self.folder / "notify")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.master.fake_farm", str(self.folder)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environ,
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def children(self) -> dict[int, str]:
        """pid → name of the master's children as the kernel has them, zombies left out."""
        found = {}
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found[int(pid)] = Path(f"/proc/{pid}/comm").read_text().strip()
            except FileNotFoundError:
                continue
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
        raise AssertionError(f"no {message!r} {fields} in the log:\n{(self.folder / 'log').read_text()[-4000:]}")

    def count(self, message: str) -> int:
        """How many log lines there are with this beginning, since the start."""
        lines = (self.folder / "log").read_text().splitlines()
        return sum(json.loads(line)["message"].startswith(message) for line in lines)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-4000:]
            time.sleep(0.01)

    def end(self, timeout_s: float = 10.0) -> int:
        """Wait for the master's end."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def errors(self) -> str:
        """What it said on standard error, after its end."""
        assert self.process is not None and self.process.stderr is not None
        return self.process.stderr.read().decode()

    def listen(self) -> None:
        """Have a notify socket, as the service manager has."""
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notifications.settimeout(10)
        self.notifications.bind(str(self.folder / "notify"))

    def notified(self) -> list[str]:
        """The lines of the next datagram."""
        assert self.notifications is not None
        return self.notifications.recv(4096).decode().splitlines()

    def _read_log(self) -> bool:
        path = self.folder / "log"
        if not path.exists():
            return False
        content = path.read_bytes()[self._read_to :]
        content = content[: content.rfind(b"\n") + 1]
        self._read_to += len(content)
        self.events += [json.loads(line) for line in content.splitlines()]
        return bool(content)


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    made = Farm(tmp_path)
    yield made
    if made.process is not None:
        if made.process.poll() is None:
            made.process.send_signal(signal.SIGCONT)
            made.process.kill()
        made.process.wait()
    if made.notifications is not None:
        made.notifications.close()
