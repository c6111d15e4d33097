"""The farm that `--keep` leaves up: where it is, and how it is stopped. One for each user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.demokit.processes import DemoError

STOP_WITHIN_S = 35.0


def folder() -> Path:
    """Where the kept demo lives; made by `make_folder`."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"atmo-farm-demo-{os.getuid()}"


def make_folder() -> Path:
    """An empty folder of this user's own; what is left of an earlier demo is stopped and removed."""
    path = folder()
    if path.is_symlink() or (path.exists() and path.stat().st_uid != os.getuid()):
        raise DemoError(f"{path} is not yours")
    stop()
    path.mkdir(mode=0o700)
    return path


def remember(nats_url: str, *pids: int) -> None:
    """Write down what runs, in the order in which it is to be stopped."""
    state = {"nats_url": nats_url, "processes": [[pid, _started(pid)] for pid in pids]}
    (folder() / "kept.json").write_text(json.dumps(state))


def nats_url() -> str:
    """The address of the kept demo's NATS server; empty when none is up."""
    state = _state()
    alive = state is not None and all(_started(pid) == started for pid, started in state["processes"])
    return state["nats_url"] if state and alive else ""


def stop() -> bool:
    """Stop it and remove its folder; False when there was none."""
    state = _state()
    for pid, started in state["processes"] if state else []:
        _end(pid, started)
    found = folder().exists()
    shutil.rmtree(folder(), ignore_errors=True)
    return found


def _state() -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads((folder() / "kept.json").read_text())
    except FileNotFoundError:
        return None
    return state


def _end(pid: int, started: str) -> None:
    for number, within_s in ((signal.SIGTERM, STOP_WITHIN_S), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + within_s
        if _started(pid) == started:
            os.kill(pid, number)
        while _started(pid) == started and time.monotonic() < deadline:
            time.sleep(0.02)


def _started(pid: int) -> str:
    """When the process began (field 22 of its stat), so that a later one of the same pid is not taken for it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = text[text.rindex(")") + 2 :].split()
    return "" if fields[0] == "Z" else fields[19]
