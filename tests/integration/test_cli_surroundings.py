"""The command in odd surroundings: closed or full standard streams, a working folder that is gone, signals blocked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.farm import nats_directive, wait_for, write_app
from tests.guests import ROOT
from tests.servers.nats import NatsServer

ATMO_FARM = f"exec {sys.executable} -m atmo_farm"

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a line of shell; returns exit code and streams."""

    def run(line: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line],
            env={**os.environ, "PYTHONPATH": str(ROOT), "ATMO_FARM_CONFIG": "/dev/null", **environ},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("verb", "code", "environ"),
    [
        ("start nowhere", 1, {}),
        ("start nowhere", 3, {"ATMO_HEADLESS": "true"}),
        ("strat", 2, {}),
        ("invoke nowhere hello", 1, {}),
        ("config", 0, {"ATMO_TRACER_TYPE": "collector"}),
    ],
)
@pytest.mark.parametrize("where", ["/dev/full", "&-"])
def test_the_exit_code_holds_when_nothing_can_be_said(
    shell: Shell, verb: str, code: int, environ: dict[str, str], where: str
) -> None:
    """Standard error is full or closed: what cannot be told changes no exit code, a warning stops nothing."""
    assert shell(f"{ATMO_FARM} {verb} 2>{where}", **environ).returncode == code


def test_standard_output_that_is_closed(shell: Shell) -> None:
    """Printed into nothing."""
    done = shell(f"{ATMO_FARM} config >&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("closed", "numbers"), [(">&-", [1]), ("2>&-", [2]), ("<&- >&- 2>&-", [0, 1, 2])])
@pytest.mark.parametrize("log_file", ["", "farm.log"])
def test_a_farm_without_standard_streams(
    tmp_path: Path, nats_server: NatsServer, closed: str, numbers: list[int], log_file: str
) -> None:
    """It serves, and nothing of its own has one of the three descriptors to which libraries write their errors."""
    handler = "name: a\nresource: closed\nsteps: [{fn: hello}]"
    write_app(tmp_path / "app", nats_directive(nats_server.url, handler), ("c", "hello"))
    folders = f"--run-dir {tmp_path / 'run'} --state-dir {tmp_path / 'state'}"
    farm = subprocess.Popen(
        ["bash", "-c", f"{ATMO_FARM} start app {folders} {closed}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ATMO_LOG_FILE": log_file},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        children = Path(f"/proc/{farm.pid}/task/{farm.pid}/children")
        wait_for(lambda: farm.poll() is not None or (tmp_path / "state" / "generations" / "1.json").exists(), 20)
        assert farm.poll() is None
        (child,) = wait_for(lambda: [pid for pid in children.read_text().split() if comm(pid) == "atmo a/0"], 20)
        for pid in (farm.pid, child):
            assert {str(Path(f"/proc/{pid}/fd/{number}").readlink()) for number in numbers} == {"/dev/null"}
        farm.send_signal(signal.SIGTERM)
        assert farm.wait(20) == 0
    finally:
        farm.kill()
        farm.wait()


def comm(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_working_folder_that_is_gone(shell: Shell, tmp_path: Path) -> None:
    """Only what is relative to it cannot be found, and is named."""
    gone = "mkdir gone; cd gone; rmdir ../gone"
    done = shell(f"{gone}; {ATMO_FARM} config --json --run-dir /run/x")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runDir"]["value"] == "/run/x"
    done = shell(f"{gone}; {ATMO_FARM} config --run-dir x")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "command line: --run-dir: 'x' is relative to the working folder, and that is gone; write an absolute path"
    )
    (tmp_path / "app").mkdir()
    done = shell(f"{gone}; {ATMO_FARM} start {tmp_path}/app")
    assert (done.returncode, "there is no Directive.yaml" in done.stderr) == (1, True)
    for verb in ("start", "check", "start app", "build"):
        done = shell(f"{gone}; {ATMO_FARM} {verb}")
        assert (done.returncode, "working folder" in done.stderr) == (3, True), done.stderr
