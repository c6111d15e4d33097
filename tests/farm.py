"""A real farm for tests: `python -m atmo_farm start` in a process of its own, with a notify socket and a JSON log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from atmo_farm.cli.app import cli
from tests.guests import guest
from tests.servers.process import _die_with_the_tests

PATIENCE_S = 30.0

MONITOR = "atmo monitor/0"
"""The name of its process."""


def write_app(folder: Path, directive: str, *guests: tuple[str, str]) -> Path:
    """A project folder: this Directive (without its head) and these guests of tests/guests, as (language, name)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_directive(folder, directive)
    for language, name in guests:
        add_guest(folder, language, name, name)
    return folder


def add_guest(folder: Path, language: str, name: str, function: str) -> None:
    """Put a guest of tests/guests into a project folder, as a function of this name."""
    found = guest(language, name)
    add_module(folder, function, found.path.read_bytes(), found.interface)


def add_module(folder: Path, function: str, module: bytes, interface: str = "runnable") -> None:
    """Put a module into a project folder, as a function of this name."""
    runnable = folder / function
    runnable.mkdir(exist_ok=True)
    (runnable / ".runnable.yaml").write_text(f"name: {function}\ninterface: {interface}\nlang: test\n")
    (runnable / f"{function}.wasm").write_bytes(module)


def write_directive(folder: Path, directive: str) -> None:
    """Replace the Directive at once, as a deployment should."""
    head = "identifier: com.example.test\nappVersion: v1.0.0\natmoVersion: v0.4.7\n"
    unfinished = folder / "Directive.unfinished"
    unfinished.write_text(head + directive)
    unfinished.rename(folder / "Directive.yaml")


def nats_directive(url: str, *handlers: str) -> str:
    """A Directive of stream handlers; each entry is the YAML of one, without type and source."""
    entries = "".join(
        "  - type: stream\n    source: nats\n" + "".join(f"    {line}\n" for line in handler.strip().splitlines())
        for handler in handlers
    )
    return f"connections:\n  nats:\n    serverAddress: {url}\nhandlers:\n{entries}"


def comm(pid: int) -> str:
    """A process's name; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Farm:
    """One farm; `with Farm(app) as farm:` starts it, waits for READY=1 and ends it."""

    def __init__(self, app: Path, *arguments: str, environ: dict[str, str] | None = None):
        self.app = app
        self.folder = Path(tempfile.mkdtemp(prefix="farm-"))
        self.log_file = self.folder / "log"
        self.notified: list[str] = []
        self._arguments = arguments
        self._environ = {"ATMO_FARM_MONITOR_ADDRESS": "127.0.0.1:0", **os.environ, **(environ or {})}
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.folder / "notify"))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, log_to: int | None = None) -> Farm:
        """Start without waiting. With `log_to` the log goes to standard error, and that to this descriptor."""
        log_file = str(self.log_file) if log_to is None else ""
        environ = {**self._environ, "NOTIFY_SOCKET": str(self.folder / "notify"), "ATMO_LOG_FILE": log_file}
        with (self.folder / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [*self.command(), *self._arguments],
                env=environ,
                stderr=stderr if log_to is None else log_to,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_the_tests,
            )
        return self

    def command(self) -> list[str]:
        """What is started, without further arguments."""
        command = [sys.executable, "-m", "atmo_farm", "start", str(self.app), "--log-format", "json"]
        return [*command, "--run-dir", str(self.folder / "run"), "--state-dir", str(self.folder / "state")]

    def operate(self, *arguments: str) -> Result:
        """What an operator runs on it: `atmo-farm ARGUMENTS`, here in this process."""
        return CliRunner().invoke(cli, [*arguments, "--run-dir", str(self.folder / "run")])

    @property
    def pid(self) -> int:
        """The master's."""
        assert self.process is not None
        return self.process.pid

    def wait_notified(self, wanted: str, patience_s: float = PATIENCE_S) -> str:
        """The next notification that holds this line (`READY=1`); what came before is in `notified`."""
        end = time.monotonic() + patience_s
        while True:
            self._notify.settimeout(max(0.01, end - time.monotonic()))
            try:
                datagram = self._notify.recv(65536).decode()
            except TimeoutError:
                raise AssertionError(f"no {wanted} in {patience_s} s; {self.notified}\n{self.tail()}") from None
            self.notified.append(datagram)
            if any(line.startswith(wanted) for line in datagram.splitlines()):
                return datagram

    def children(self) -> list[int]:
        """The pids of the master's children but the monitor, as the kernel knows them."""
        pids = [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return [pid for pid in pids if comm(pid) != MONITOR]

    def monitor(self) -> int:
        """The monitor's pid, as soon as there is one."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        named = wait_for(lambda: [pid for pid in children.read_text().split() if comm(int(pid)) == MONITOR])
        return int(named[0])

    def log(self, **fields: Any) -> list[dict[str, Any]]:
        """The log lines so far that have these fields."""
        if not self.log_file.exists():
            return []
        lines = [json.loads(line) for line in self.log_file.read_bytes().splitlines() if line.endswith(b"}")]
        return [line for line in lines if all(line.get(key) == value for key, value in fields.items())]

    def wait_log(self, patience_s: float = PATIENCE_S, **fields: Any) -> dict[str, Any]:
        """The first line that has these fields, as soon as it is there."""
        return wait_for(lambda: self.log(**fields), patience_s, lambda: f"no {fields}\n{self.tail()}")[0]

    def tail(self) -> str:
        """The end of the log and of stderr, for a failed assertion."""
        log = self.log_file.read_text(errors="replace")[-4000:] if self.log_file.exists() else ""
        return f"{log}\nstderr: {(self.folder / 'stderr').read_text(errors='replace')[-2000:]}"

    def stop(self, sig: signal.Signals = signal.SIGTERM, patience_s: float = 40.0) -> int:
        """Send the signal and wait for the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(patience_s)

    def __enter__(self) -> Farm:
        self.start()
        self.wait_notified("READY=1")
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                try:
                    self.stop()
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
        finally:
            self._notify.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def alive(*pids: int) -> bool:
    """Whether one of these processes still runs; one that only waits to be reaped by init is dead."""
    return any(_state(pid) not in "ZX" for pid in pids)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def wait_for(
    probe: Callable[[], Any], patience_s: float = PATIENCE_S, otherwise: Callable[[], str] = lambda: "it did not come"
) -> Any:
    """The first true value of `probe`, for events that nobody announces (a file, a process that ends)."""
    end = time.monotonic() + patience_s
    while not (value := probe()):
        if time.monotonic() > end:
            raise AssertionError(otherwise())
        time.sleep(0.01)
    return value


def busy_s(pids: Iterable[int]) -> float:
    """Processor time of these processes so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")
