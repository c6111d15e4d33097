"""`scripts/demo`, as a person runs it once the farm is installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.guests import ROOT


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.demokit", *arguments]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "TMPDIR": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100)


def test_the_demo(tmp_path: Path) -> None:
    """In under a minute: answers, rows written and read back, a cached value, a kill, reloads; nothing is left."""
    began = time.monotonic()
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 60
    assert "row in the file: ('A-17', 'mara', 'accepted', 1050)" in done.stdout
    assert '{"id":"A-17","status":"accepted","total":1050,"in_all":2}' in done.stdout
    assert "Found-In: cache" in done.stdout and "0 left" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_is_kept(tmp_path: Path) -> None:
    """It stays up with its files until it is stopped, which leaves nothing."""
    try:
        kept = demo(tmp_path, "--keep")
        assert kept.returncode == 0, kept.stdout + kept.stderr
        (folder,) = tmp_path.iterdir()
        assert {"orders", "orders.db", "farm.log", "kept.json"} <= {path.name for path in folder.iterdir()}
        sent = demo(tmp_path, "--send", "history.mara", "")
        assert '"id":"A-17"' in sent.stdout, sent.stdout + sent.stderr
    finally:
        stopped = demo(tmp_path, "--stop")
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        left = [pid for pid in pids if _is_of(pid, tmp_path)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert left == []
    assert stopped.stdout.strip() == "stopped"
    assert list(tmp_path.iterdir()) == []


def _is_of(pid: int, folder: Path) -> bool:
    """Whether a process names the folder in its command line."""
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
