"""Benchmarks that build parts of the farm by themselves still fit them: one round each, whatever its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", ["fanin", "invoke"])
def test_it_runs(name: str) -> None:
    """To its line of JSON, which says whether the bounds are met; so does the exit code."""
    command = [sys.executable, "-m", "benchmarks", name, "--rounds", "1"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["name"] == name
    assert said["checks"]
    assert ran.returncode == (0 if said["meets"] else 1)
