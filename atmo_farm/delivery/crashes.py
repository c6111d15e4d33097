"""The crash ledger: which message's guest ran when a process died, and how often that has been so.

state/crashes.json: {"handler": {"number": deaths}}, of each handler the last MOST. It is the master's alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from atmo_farm import log

logger = logging.getLogger("atmo_farm.master")

NAME = "crashes.json"
MOST = 1000
"""Messages of one handler that are remembered; the one that was suspected longest ago is forgotten first."""


class CrashLedger:
    """Kept in the state folder, so that it outlives the master. A file that is not as it was written is put aside."""

    def __init__(self, state: Path):
        self._path = state / NAME
        self._deaths: dict[str, dict[int, int]] = {}
        try:
            self._deaths = _read(self._path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self._put_aside(error)

    def suspects(self, handler: str) -> Mapping[int, int]:
        """`Message.number` → deaths while its guest ran."""
        return self._deaths.get(handler, {})

    def blame(self, handler: str, number: int) -> int:
        """One more; returns how many there are now. What cannot be written is known until the master's end."""
        known = self._deaths.setdefault(handler, {})
        deaths = known[number] = known.pop(number, 0) + 1
        if len(known) > MOST:
            del known[next(iter(known))]
        try:
            self._write()
        except OSError as error:
            log.event(logger, logging.ERROR, "crash ledger not written", path=str(self._path), reason=str(error))
        return deaths

    def _write(self) -> None:
        unfinished = self._path.with_suffix(".new")
        unfinished.write_text(json.dumps(self._deaths))
        unfinished.replace(self._path)

    def _put_aside(self, error: Exception) -> None:
        aside = self._path.with_suffix(".broken")
        try:
            self._path.replace(aside)
        except OSError as reason:
            error = reason
        text = "crash ledger is unreadable: nobody is suspected any more"
        log.event(logger, logging.ERROR, text, path=str(self._path), put_aside=str(aside), reason=str(error))


def _read(content: bytes) -> dict[str, dict[int, int]]:
    """ValueError for anything but what `_write` writes."""
    try:
        found = json.loads(content)
        deaths = {handler: {int(number): count for number, count in known.items()} for handler, known in found.items()}
    except (AttributeError, RecursionError) as error:
        raise ValueError("not a ledger") from error
    for known in deaths.values():
        if len(known) > MOST or not all(type(count) is int and count > 0 for count in known.values()):
            raise ValueError("not a ledger")
    return deaths
