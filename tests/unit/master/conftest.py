"""A master with trivial children (`fake_farm`), driven like a real one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.master.driver import Driver

FAST = {"heartbeat_timeout_s": 1.0, "drain_deadline_s": 2.0, "boot_timeout_s": 2.0, "load_timeout_s": 5.0}


class Farm(Driver):
    """One master with trivial children."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.settings(**FAST)

    def settings(self, **settings: Any) -> None:
        """Fields of `Settings`."""
        (self.folder / "settings.json").write_text(json.dumps({"monitor_address": "127.0.0.1:0", **settings}))

    def app(self, **content: Any) -> None:
        """Replace the application: `handlers={"echo": {"behaviour": "ok", "workers": 2}}`."""
        unfinished = self.folder / "app.unfinished"
        unfinished.write_text(json.dumps(content))
        unfinished.rename(self.folder / "app.json")

    def start(self, **handlers: Any) -> None:
        """Start it with the application as it is, or with these handlers."""
        if handlers:
            self.app(handlers=handlers)
        self.run(["-m", "tests.unit.master.fake_farm", str(self.folder)], os.environ)


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """Killed after the test, if it still runs."""
    made = Farm(tmp_path)
    yield made
    made.close()
