"""What systemctl is asked and told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from atmo_farm.errors import CannotStart
from atmo_farm.tools.service.place import Place

WAIT_S = 30.0

BOOTED = Path("/run/systemd/system")
"""It is there while systemd is the system's manager (sd_booted(3)): without it no service can be in use."""


class Manager:
    """The system's manager or this user's; `is_there` is False without systemctl."""

    def __init__(self, place: Place):
        self._command = shutil.which("systemctl")
        self._options = ("--user",) if place.user else ()
        self._service = place.service

    @property
    def is_there(self) -> bool:
        """Whether there is one to be asked."""
        return self._command is not None

    def in_use(self) -> str:
        """`active` or `enabled`, if the service is that. CannotStart when a manager runs and does not tell."""
        _, state, problem = self._run("is-active", self._service)
        if not state.strip() and self.is_there and BOOTED.exists():
            raise CannotStart(f"systemctl does not tell whether {self._service} runs: {problem.strip() or 'no word'}")
        if state.strip() in ("active", "activating", "reloading", "deactivating"):
            return state.strip()
        enabled = self._run("is-enabled", self._service)[1].strip()
        return enabled if enabled == "enabled" else ""

    def read_units_again(self) -> str:
        """daemon-reload; returns what was wrong, or nothing."""
        code, _, problem = self._run("daemon-reload")
        return problem.strip() or "it failed" if code else ""

    def _run(self, *arguments: str) -> tuple[int, str, str]:
        if self._command is None:
            return 1, "", "systemctl is not here"
        try:
            done = subprocess.run(
                [self._command, *self._options, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=WAIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return 1, "", str(error)
        return done.returncode, done.stdout, done.stderr
