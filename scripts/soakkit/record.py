"""What is known of each row: docs/soak.json for this program, docs/soak.md for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import attrs

HEAD = """# Soak: the fault rows in their full form

Written by `scripts/soak` (see `scripts/soak --help`); the suite runs each row in a short form. A commit with a `+` had
uncommitted changes.

"""


@attrs.frozen
class Result:
    """The last run of one row."""

    row: str
    passed: bool
    figures: Mapping[str, str]
    took_s: int
    date: str
    commit: str


class Record:
    """All results so far, in the folder of the docs."""

    def __init__(self, docs: Path):
        self._json, self._page = docs / "soak.json", docs / "soak.md"
        content = json.loads(self._json.read_text()) if self._json.exists() else []
        self._results = {item["row"]: Result(**item) for item in content}

    def is_done(self, row: str, commit: str) -> bool:
        """Whether it passed at this commit."""
        result = self._results.get(row)
        return result is not None and result.passed and result.commit == commit

    def state(self, row: str) -> str:
        """In a few words."""
        result = self._results.get(row)
        if result is None:
            return "never run"
        return f"{'passed' if result.passed else 'FAILED'} {result.date} at {result.commit}"

    def add(self, result: Result, rows: Mapping[str, str]) -> None:
        """Keep it and write both files; rows that are no longer there go."""
        self._results[result.row] = result
        kept = [self._results[row] for row in rows if row in self._results]
        self._json.write_text(json.dumps([attrs.asdict(item) for item in kept], indent=1) + "\n")
        lines = ["| row | what | result | figures | s | date | commit |", "|---|---|---|---|---|---|---|"]
        for item in kept:
            figures = "; ".join(f"{name}: {value}" for name, value in item.figures.items())
            passed = "passed" if item.passed else "**failed**"
            cells = (item.row, rows[item.row], passed, figures, str(item.took_s), item.date, item.commit)
            lines.append(f"| {' | '.join(cells)} |")
        self._page.write_text(HEAD + "\n".join(lines) + "\n")
