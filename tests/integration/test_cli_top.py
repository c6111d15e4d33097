"""`atmo-farm top` against a real farm: tables for a pipe, and the screen of a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from atmo_farm.cli.app import cli
from tests.farm import PATIENCE_S, Farm, write_app
from tests.servers.nats import NatsServer

DOWN, RIGHT = b"\x1bOB", b"\x1bOC"
"""Arrows, as a terminal sends them to whoever has asked for keys."""


class Terminal:
    """A program on a terminal of 24 lines; `shown` is all that it ever wrote."""

    def __init__(self, *arguments: str, columns: int = 140):
        pid, self._fd = pty.fork()
        if not pid:
            # readline, which pytest imports, sets COLUMNS past Python's own environment; others may, too
            environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
            environ["TERM"] = "xterm"
            os.execve(sys.executable, [sys.executable, "-m", "atmo_farm", *arguments], environ)
        self._pid = pid
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.shown = b""

    def until(self, text: bytes) -> None:
        """Something new is shown that has this in it."""
        deadline, begin = time.monotonic() + PATIENCE_S, len(self.shown)
        while text not in self.shown[begin:]:
            assert time.monotonic() < deadline, self.shown[begin:]
            if select.select([self._fd], [], [], 0.1)[0]:
                self.shown += os.read(self._fd, 1 << 16)

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def ended(self) -> int:
        """Its exit code."""
        with contextlib.suppress(OSError):
            while data := os.read(self._fd, 1 << 16):
                self.shown += data
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, nats_server: NatsServer) -> Iterator[Farm]:
    handlers = "".join(
        f"  - {{type: stream, source: nats, resource: top.{name}, name: {name}, steps: [{{fn: hello}}]}}\n"
        for name in ("alpha", "beta")
    )
    directive = f"connections: {{nats: {{serverAddress: {nats_server.url}}}}}\nhandlers:\n{handlers}"
    with Farm(write_app(tmp_path_factory.mktemp("top") / "app", directive, ("c", "hello"))) as farm:
        yield farm


def test_tables(farm: Farm, nats_server: NatsServer) -> None:
    """For a pipe: as many as asked for, with what was done between two looks."""
    arguments = ["top", "--run-dir", str(farm.folder / "run"), "--interval", "0.3"]
    shown = CliRunner().invoke(cli, [*arguments, "--count", "2", "--sort", "handler"])
    assert shown.exit_code == 0, shown.output
    first, second = shown.stdout.split("\n\n")
    for table in (first, second):
        head, heading, alpha, beta = table.splitlines()
        assert "ready, generation 1, 2 of 2 ready" in head
        assert heading.split()[:3] == ["handler", "state", "workers"]
        assert alpha.split()[:4] == ["alpha", "ready", "1/1", "0"]
        assert beta.split()[0] == "beta"
    assert CliRunner().invoke(cli, [*arguments, "--sort", "nothing"]).exit_code == 2


def test_the_screen(farm: Farm) -> None:
    """It is there, keys sort and choose, it outlives the monitor, and `q` leaves the terminal as it was."""
    terminal = Terminal("top", "--run-dir", str(farm.folder / "run"), "--interval", "0.2")
    terminal.until(b"b MiB")  # the last of a screen
    assert b"beta" in terminal.shown
    before = len(terminal.shown)
    terminal.type(RIGHT + b"p")
    terminal.until(b"choose a handler first")
    assert b"workers" not in terminal.shown[before:], "nothing has moved: all columns fit"
    terminal.type(DOWN)
    terminal.until(b";7malpha")  # reversed
    os.kill(farm.monitor(), signal.SIGKILL)
    terminal.until(b"went away")
    terminal.type(b"q")
    assert terminal.ended() == 0
    assert terminal.shown.rstrip().endswith(b"\x1b>"), "keys are its own no more"


def test_a_narrow_screen(farm: Farm) -> None:
    """Of 80 columns: all keys are told, and the arrows bring the columns that do not fit beside the names."""
    terminal = Terminal("top", "--run-dir", str(farm.folder / "run"), "--interval", "0.2", columns=80)
    terminal.until(b"b MiB")
    assert b"q quit" in terminal.shown
    heading = terminal.shown[terminal.shown.index(b"handler  state") :].split(b"alpha")[0]
    assert b"dead" in heading and b"cpu %" not in heading
    for _ in range(6):
        terminal.type(RIGHT)
    terminal.until(b"cpu %")
    terminal.type(b"q")
    assert terminal.ended() == 0
