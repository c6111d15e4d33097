"""`python -m scripts.soakkit [ROW…]`: run fault rows by pytest's `--soak`, keep their figures, render docs/soak.md.

A row is a test marked `@pytest.mark.fault(row="kill-child")`; it runs in a short form in the suite and in its full form
here. What it measures it tells by the fixture `figure`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.soakkit.record import Record, Result

ROOT = Path(__file__).parent.parent.parent


class _Rows:
    """A pytest plugin that notes the rows of what is collected."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for marker in item.iter_markers("fault"):
                text = item.function.__doc__ or ""  # type: ignore[attr-defined]
                self.rows.setdefault(marker.kwargs["row"], text.strip().splitlines()[0] if text else item.name)


def rows() -> dict[str, str]:
    """row → the first line of its test's docstring."""
    plugin = _Rows()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = pytest.main(["--collect-only", "-qq", "-m", "fault"], [plugin])
    if status != pytest.ExitCode.OK:
        sys.exit(f"scripts/soak: the tests cannot be collected:\n{said.getvalue()}")
    return plugin.rows


def commit() -> str:
    """The commit at hand, with a `+` when something is changed."""
    described = ["git", "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=10"]
    return subprocess.run(described, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def run(row: str) -> Result:
    """One row, its progress on the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "--soak", "--timeout=0", "-v", f"--junitxml={report}"]
        began = time.monotonic()
        status = subprocess.run([*command, "-m", f'fault(row="{row}")'], cwd=ROOT, check=False).returncode
        took_s = time.monotonic() - began
        found = ElementTree.parse(report).iter("property") if report.exists() else ()
        figures = {str(item.get("name")): str(item.get("value")) for item in found}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Result(row, status == 0, figures, round(took_s), today, commit())


def main() -> int:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(prog="scripts/soak")
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--list", action="store_true", help="show the rows and what is known of each")
    options = parser.parse_args()
    known = rows()
    record = Record(ROOT / "docs")
    if options.list:
        for row, text in known.items():
            print(f"{row:<22} {record.state(row):<32} {text}")
        return 0
    unknown = [row for row in options.rows if row not in known]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there is {', '.join(known)}")
    here = commit()
    wanted = options.rows or [row for row in known if not record.is_done(row, here)]
    failed = []
    for number, row in enumerate(wanted, 1):
        print(f"--- {number} of {len(wanted)}: {row}: {known[row]}", flush=True)
        result = run(row)
        record.add(result, known)
        if not result.passed:
            failed.append(row)
    print(f"docs/soak.md is written; {len(wanted) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
