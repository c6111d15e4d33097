"""`restart` and `scale`: other workers of one handler, of the generation in force."""

from __future__ import annotations

import logging
import math

from atmo_farm import log
from atmo_farm.directive.find import handler_named
from atmo_farm.directive.model import Handler
from atmo_farm.errors import AtmoFarmError
from atmo_farm.ipc.messages import Ask
from atmo_farm.master.fleet import Fleet
from atmo_farm.master.generation import Generation
from atmo_farm.master.roll import Roll, Tell
from atmo_farm.master.wishes import check_count
from atmo_farm.settings import Settings

logger = logging.getLogger("atmo_farm.master")


class Rework:
    """One of them, step by step as `reload.Reload`."""

    def __init__(self, generation: Generation, fleet: Fleet, settings: Settings, ask: Ask, tell: Tell):
        self._fleet = fleet
        self._settings = settings
        self._ask = ask
        self._tell = tell
        self._roll: Roll | None = None
        self.doing = "scaling" if ask.verb == "scale" else "restarting"
        self._generation = generation
        self.refusal = ""
        """Why it cannot be, or was taken back; empty if it was not."""
        self.changes = ""
        self.is_over = False

    def step(self, now: float) -> float:
        """Go on as far as possible; returns when it wants its next turn."""
        if self._roll is None:
            try:
                self._begin(handler_named(self._generation.directive, self._ask.value))
            except AtmoFarmError as error:
                self.refusal = str(error)
                self.is_over = True
            return now
        wake = self._roll.step(now)
        self.is_over = self._roll.is_over
        return math.inf if self.is_over else wake

    def _begin(self, handler: Handler) -> None:
        role = next(role for role in self._generation.roles() if role.handler == handler)
        here = {worker.number: worker for worker in self._fleet.consumers(handler.name)}
        if scales := self._ask.verb == "scale":
            check_count(handler, self._ask.count)
            wanted = self._ask.count
            numbers = [number for number in range(wanted) if number not in here]
            ending = [worker for number, worker in here.items() if number >= wanted]
        else:
            numbers, ending = list(range(self._fleet.wishes.workers(role))), list(here.values())
        self._fleet.check_places(len(numbers))
        starting = self._fleet.add(self._generation, [(role, number) for number in numbers])
        text, begin, end = f"{self.doing} {handler.name}", len(starting), len(ending)
        log.event(logger, logging.INFO, text, cause=self._ask.cause, starting=begin, ending=end)
        self._tell({"stage": self.doing, "starting": begin, "ending": end})

        def up() -> None:
            if scales:
                self._fleet.wishes.scale(handler, self._ask.count)
            self.changes = f"{handler.name}: {begin} started, {end} ended"
            self._tell({"stage": "draining", "draining": end})

        def failed(reason: str) -> None:
            self.refusal = reason
            log.event(logger, logging.ERROR, f"{text}: taken back", reason=reason)
            self._tell({"stage": "rolling back", "reason": reason})

        self._roll = Roll(
            self._fleet, starting, ending, self._settings.boot_timeout_s, self._tell, up=up, failed=failed
        )
