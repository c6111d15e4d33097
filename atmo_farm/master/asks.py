"""Who asked for a change of the farm, and is told how far it is."""

from __future__ import annotations

from typing import Any

from atmo_farm import log
from atmo_farm.ipc.messages import Ask
from atmo_farm.master.fleet import Fleet
from atmo_farm.master.reload import TEXT_TOLD

MOST = 200
"""Askers who wait; the ids of those of one reload stand in each line that is sent about it."""

BY_SIGNAL = Ask("", "reload", "SIGHUP")
"""A reload that nobody waits for."""


class Asks:
    """One change at a time, in their order. What is asked for while a reload runs is one more reload after it, for all
    who asked meanwhile; every other change is one of its own."""

    def __init__(self, fleet: Fleet):
        self._fleet = fleet
        self._next: list[list[Ask]] = []
        self._current: list[Ask] = []

    @property
    def waiting(self) -> bool:
        """Whether somebody wants one that has not begun."""
        return bool(self._next)

    def add(self, ask: Ask) -> None:
        """Somebody wants it."""
        group = next((group for group in self._next if group[0].verb == ask.verb == "reload"), [])
        if sum(map(len, self._next)) == MOST:
            self.refuse(ask, "too many wait for the farm to change")
        elif ask not in group:
            if not group:
                self._next.append(group)
            group.append(ask)
            self._fleet.answer([ask.id], {"progress": {"stage": "asked"}})

    def refuse(self, ask: Ask, reason: str) -> None:
        """It cannot be."""
        self._fleet.answer([ask.id], {"error": reason, "exit": 5})

    def begin(self) -> Ask:
        """The next one: all who wait for it get what begins now."""
        self._current = self._next.pop(0)
        return self._current[0]

    def tell(self, progress: dict[str, Any]) -> None:
        """How far it is."""
        self._fleet.answer([ask.id for ask in self._current], {"progress": _cut(progress)})

    def succeed(self, generation: int, changes: str) -> None:
        """It is over, and this generation is in force."""
        self._end({"result": _cut({"generation": generation, "changes": changes})})

    def fail(self, reason: str, goes_on: int) -> None:
        """It is over, and that generation goes on as it was."""
        self._end({"error": f"{log.redacted(reason, TEXT_TOLD)}; generation {goes_on} goes on", "exit": 5})

    def stop(self) -> None:
        """There will be none any more."""
        self._current = [ask for group in (self._current, *self._next) for ask in group]
        self._next = []
        self._end({"error": "the farm was told to stop", "exit": 5})

    def _end(self, what: dict[str, Any]) -> None:
        self._fleet.answer([ask.id for ask in self._current], what)
        self._current = []


def _cut(told: dict[str, Any]) -> dict[str, Any]:
    cut = {name: log.redacted(value, TEXT_TOLD) for name, value in told.items() if isinstance(value, str)}
    return {**told, **cut}
