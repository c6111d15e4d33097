"""docs/security.md names files and tests: they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "docs" / "security.md").read_text().splitlines()

NAMED = re.compile(r"`(?P<file>[\w/]+\.py)`|`(?P<test>test_\w+)`")


def found(name: str) -> Path | None:
    """A file of the farm, or of its tests, where unit tests go without `unit/`."""
    places = (ROOT / "atmo_farm", ROOT, ROOT / "tests", ROOT / "tests" / "unit")
    return next((place / name for place in places if (place / name).exists()), None)


@pytest.mark.parametrize("line", [line for line in LINES if NAMED.search(line)])
def test_what_is_named_is_there(line: str) -> None:
    """Each file; each test in the file that was named last before it."""
    file = ROOT / "tests/integration/test_service_units.py"
    for match in NAMED.finditer(line):
        if match["file"]:
            path = found(match["file"])
            assert path is not None, match["file"]
            file = path
        else:
            assert f"def {match['test']}(" in file.read_text(), f"{match['test']} in {file}"
