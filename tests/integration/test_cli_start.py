"""`atmo-farm start`, as a process: what it refuses, what it waits for, and that it serves with what it was given."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import nats
import pytest

from tests.guests import ROOT, guest
from tests.servers.nats import NatsServer

DIRECTIVE = """\
identifier: com.example.start
appVersion: v1.0.0
atmoVersion: v0.4.7
connections:
  nats:
    serverAddress: env(START_NATS_URL)
handlers:
  - type: stream
    source: nats
    name: greeter
    resource: start.greet
    steps:
      - fn: hello
"""

WAIT_S = 30


class Farm:
    """A started `atmo-farm start`, with its standard error as lines."""

    def __init__(self, *args: str, cwd: Path, **environ: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "atmo_farm", "start", *args],
            cwd=cwd,
            env={**clean_environ(cwd), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        assert self.process.stderr is not None
        threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def line(self, part: str) -> str:
        """The next line with this text; fails with all lines when the farm ends or stays silent before."""
        while True:
            line = self._queue.get(timeout=WAIT_S)
            if line is None:
                pytest.fail(f"no line with {part!r} in:\n" + "\n".join(self.lines))
            self.lines.append(line)
            if part in line:
                return line

    def end(self) -> int:
        """Its exit code; the rest of its lines are in `lines`."""
        code = self.process.wait(WAIT_S)
        while (line := self._queue.get(timeout=WAIT_S)) is not None:
            self.lines.append(line)
        return code


def clean_environ(home: Path) -> dict[str, str]:
    """This machine's environment without what the farm reads."""
    ours = ("ATMO_", "START_", "XDG_", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), "HOME": str(home), "ATMO_FARM_CONFIG": "/dev/null"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An application of one handler that greets."""
    folder = tmp_path / "project"
    (folder / "hello").mkdir(parents=True)
    (folder / "Directive.yaml").write_text(DIRECTIVE)
    (folder / "hello" / ".runnable.yaml").write_text("name: hello\n")
    (folder / "hello" / "hello.wasm").write_bytes(guest("c", "hello").wasm())
    return folder


@pytest.fixture
def farms(tmp_path: Path) -> Iterator[Any]:
    """`farms(*args, cwd=…)` starts a farm on folders of its own; all are gone afterwards."""
    started: list[Farm] = []

    def start(*args: str, cwd: Path, **environ: str) -> Farm:
        folders = ("--run-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state"))
        started.append(Farm(*args, *folders, cwd=cwd, **environ))
        return started[-1]

    yield start
    for farm in started:
        if farm.process.poll() is None:
            farm.process.kill()
        farm.process.wait(WAIT_S)


def test_serves_until_it_is_told_to_stop(project: Path, farms: Any, nats_server: NatsServer) -> None:
    """The address comes from the env file; lines in a pipe are JSON and say who wrote them; SIGTERM ends with 0."""
    (project / "start.env").write_text(f'START_NATS_URL="{nats_server.url}"\n')
    farm = farms("--env-file", "start.env", cwd=project)
    up = json.loads(farm.line("farm is up"))
    assert (up["level"], up["app"], up["process"], up["generation"]) == ("info", "com.example.start", "master", 1)

    async def ask() -> bytes:
        client = await nats.connect(nats_server.url)
        try:
            return (await client.request("start.greet", b"Ada", timeout=10)).data
        finally:
            await client.close()

    assert asyncio.run(ask()) == b"hello, Ada"
    farm.process.send_signal(signal.SIGTERM)
    assert farm.end() == 0
    assert farm.process.stdout.read() == ""


def test_flags_reach_the_farm(project: Path, farms: Any, nats_server: NatsServer) -> None:
    """Name, format, level and workers; the flag beats the variable."""
    farm = farms(
        *("--app-name", "shop", "--log-format", "text", "--log-level", "info", "--workers", "2"),
        cwd=project,
        START_NATS_URL=nats_server.url,
        ATMO_LOG_LEVEL="error",
        ATMO_APP_NAME="other",
    )
    up = farm.line("farm is up")
    assert "[shop#1 master] farm is up" in up
    assert up.endswith("workers=2")
    farm.process.send_signal(signal.SIGINT)
    assert farm.end() == 0


def test_log_file(project: Path, farms: Any, tmp_path: Path) -> None:
    """ATMO_LOG_FILE takes the lines; why the farm ended stands in both, for the terminal and for later."""
    log_file = tmp_path / "farm.log"
    farm = farms(cwd=project, ATMO_LOG_FILE=str(log_file))
    assert farm.end() == 1
    assert len(farm.lines) == 1
    assert log_file.stat().st_mode & 0o777 == 0o600
    last = json.loads(log_file.read_text().splitlines()[-1])
    assert (last["process"], last["message"], last["reason"]) == ("master", "the farm ends", farm.lines[0])


def test_second_start_is_refused(project: Path, farms: Any, nats_server: NatsServer) -> None:
    """Exit 3 and the pid that holds the folder."""
    first = farms(cwd=project, START_NATS_URL=nats_server.url)
    first.line("farm is up")
    second = farms(cwd=project, START_NATS_URL=nats_server.url)
    assert second.end() == 3
    assert second.lines[-1].startswith("Error: ")
    assert str(first.process.pid) in second.lines[-1]


def test_required_connection_that_is_down(project: Path, farms: Any) -> None:
    """With --require-connections: exit 3, and the connection is named."""
    farm = farms("--require-connections", cwd=project, START_NATS_URL="nats://127.0.0.1:1")
    assert farm.end() == 3
    assert farm.lines[-1].startswith("Error: ")
    assert "nats" in farm.lines[-1]


def test_problems_of_the_application(project: Path, farms: Any) -> None:
    """Exit 1, each problem with its place, also an unset variable."""
    farm = farms(cwd=project)
    assert farm.end() == 1
    place = f"{project}/Directive.yaml:6:5: connections.nats.serverAddress: "
    assert farm.lines[-1].startswith(f"{place}the environment variable START_NATS_URL is not set")
    (project / "Directive.yaml").write_text(DIRECTIVE.replace("fn: hello", "fn: helo\n    zzz: 1"))
    farm = farms(cwd=project)
    assert farm.end() == 1
    keys = [line.split(": ")[1] for line in farm.lines]
    assert keys == ["connections.nats.serverAddress", "handlers[0].steps[0].fn", "handlers[0].zzz"]


def test_what_is_not_served(project: Path, farms: Any) -> None:
    """Exit 3, with the line of the key."""
    with (project / "Directive.yaml").open("a") as directive:
        directive.write("headless: true\n")
    farm = farms(cwd=project, START_NATS_URL="h")
    assert farm.end() == 3
    assert f"{project}/Directive.yaml:14:1: " in farm.lines[-1]
    assert "headless" in farm.lines[-1]
    assert "warning" not in farm.lines[-1]


def test_headless_is_not_served(project: Path, farms: Any) -> None:
    """Exit 3, and where it was asked for."""
    farm = farms(cwd=project, START_NATS_URL="h", ATMO_HEADLESS="true")
    assert farm.end() == 3
    assert farm.lines == [
        "Error: headless mode (env ATMO_HEADLESS) is not served by this build; set ATMO_HEADLESS=false"
    ]


def test_atmo_wait(project: Path, farms: Any, nats_server: NatsServer, tmp_path: Path) -> None:
    """ATMO_WAIT: nothing there yet is no error; the farm starts when the application appears."""
    later = tmp_path / "later"
    farm = farms(str(later), cwd=tmp_path, START_NATS_URL=nats_server.url, ATMO_WAIT="true")
    assert json.loads(farm.line("waiting for the application"))["path"] == str(later)
    project.rename(later)
    farm.line("farm is up")
    farm.process.send_signal(signal.SIGTERM)
    assert farm.end() == 0


def test_interrupted_while_it_waits(farms: Any, tmp_path: Path) -> None:
    """Ctrl-C: exit 130, no stack trace."""
    farm = farms("nowhere", cwd=tmp_path, ATMO_WAIT="true")
    farm.line("waiting for the application")
    farm.process.send_signal(signal.SIGINT)
    assert farm.end() == 130
    assert "Traceback" not in "\n".join(farm.lines)


def test_no_application(farms: Any, tmp_path: Path) -> None:
    """Without ATMO_WAIT: exit 1, and what is missing."""
    farm = farms("nowhere", cwd=tmp_path)
    assert farm.end() == 1
    assert f"{tmp_path}/nowhere: is neither a project folder nor a bundle" in farm.lines[-1]
