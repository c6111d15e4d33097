"""What the demo prints: numbered scenes, messages in and out in columns, colour only on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

SUBJECT_WIDTH = 16


class Screen:
    """Standard output; every scene's line bears the seconds since the demo began."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._scenes = 0

    def scene(self, title: str) -> None:
        """The next thing to see."""
        self._scenes += 1
        self._write(f"\n{self._paint('1;36', f'{self._scenes}. {title}')}  {self._paint('2', self._seconds())}")

    def note(self, text: str) -> None:
        """A line of explanation."""
        self._write(f"   {text}")

    def sent(self, subject: str, data: str) -> None:
        """A message that goes in."""
        self._write(f"   {self._paint('33', 'in ')} {subject:<{SUBJECT_WIDTH}} {data}")

    def received(self, subject: str, data: str, headers: Mapping[str, str], took_s: float) -> None:
        """One that came out."""
        self._write(f"   {self._paint('32', 'out')} {subject:<{SUBJECT_WIDTH}} {data}  {_milliseconds(took_s)}")
        if headers:
            said = ", ".join(f"{name}: {value}" for name, value in headers.items())
            self._write(f"       {'':<{SUBJECT_WIDTH}} {self._paint('2', said)}")

    def refused(self, subject: str, code: str, text: str, took_s: float) -> None:
        """An error answer."""
        self._write(f"   {self._paint('31', 'err')} {subject:<{SUBJECT_WIDTH}} {code}: {text}  {_milliseconds(took_s)}")

    def log(self, level: str, process: str, text: str) -> None:
        """A line of the farm's own log."""
        colour = {"error": "31", "warn": "33"}.get(level, "2")
        self._write(f"   {self._paint('2', 'log')} {self._paint(colour, f'{level:<5} [{process}] {text}')}")

    def end(self, text: str) -> None:
        """The last line."""
        self._write(f"\n{self._paint('1;32', text)}  {self._paint('2', self._seconds())}")

    def failed(self, text: str) -> None:
        """The last line when something went wrong; to standard error."""
        sys.stdout.flush()
        sys.stderr.write(f"\nscripts/demo: {text}\n")

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._began:.1f} s"

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text

    def _write(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _milliseconds(seconds: float) -> str:
    return f"({seconds * 1000:.1f} ms)"
