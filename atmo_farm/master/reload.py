"""From one generation to the next without a gap.

    check      a helper process makes the new generation; on any problem the old one runs on untouched
    start      workers that are new or changed, beside the old ones, in slots of their own
    end        when all of them are up, and still are a moment later, the old ones drain; when one cannot boot, or none
               got up for the boot timeout, the new ones do

It is over when what was to end has ended: so at no time more than two generations run, however many reloads are asked
for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from atmo_farm import log, processes
from atmo_farm.directive.secrets import secrets
from atmo_farm.errors import AtmoFarmError, CannotStart
from atmo_farm.ipc.messages import Ask
from atmo_farm.master import heap
from atmo_farm.master.fleet import Fleet
from atmo_farm.master.generation import Generation
from atmo_farm.master.helper import Helper
from atmo_farm.master.loader import Loader
from atmo_farm.master.roll import Roll, Tell
from atmo_farm.master.worker import Worker
from atmo_farm.settings import Settings

logger = logging.getLogger("atmo_farm.master")


BYTES_TOLD = 100_000
"""Of problems or warnings, to those who asked: what the monitor's channel has room for. The log has them all."""

TEXT_TOLD = 600
"""Characters of each text that those who asked are told; with three in a line it is short enough for the channel."""


class Reload:
    """One reload; `step` is called by the master's loop until `is_over`. `ask`: who wants it, or a rollback."""

    def __init__(self, current: Generation, fleet: Fleet, loader: Loader, settings: Settings, ask: Ask, tell: Tell):
        self._ask = ask
        self._tell = tell
        self._fleet = fleet
        self._loader = loader
        self._settings = settings
        self._helper: Helper | None = None
        self._new = current
        self._kept: list[Worker] = []
        self._roll: Roll | None = None
        self.doing = "rolling back" if ask.verb == "rollback" else "reloading"
        self._phase: Callable[[float], float] = self._begin
        self.generation = current
        """The one in force: the new one from the moment all of it is up."""
        self.refusal = ""
        """Why the old one stays; empty if it does not."""
        self.changes = ""
        """What is different in the new one, for people."""
        self.is_over = False

    def step(self, now: float) -> float:
        """Go on as far as possible; returns when it wants its next turn."""
        return self._phase(now)

    # The phases, in their order

    def _begin(self, now: float) -> float:
        log.event(logger, logging.INFO, "reload: checking", cause=self._ask.cause)
        self._tell({"stage": "checking"})
        try:
            if self._ask.verb == "rollback":
                self._helper = self._loader.rollback(self.generation, self._ask.cause, self._ask.count)
            else:
                self._helper = self._loader.reload(self.generation, self._ask.cause)
        except OSError as error:
            self._refuse(CannotStart(f"no helper process: {error.strerror}"))
            return now
        self._phase = self._check
        return now

    def _check(self, now: float) -> float:
        assert self._helper is not None
        wake = self._helper.step(now)
        result = self._helper.result
        if result is None:
            return wake
        self._loader.finish()
        if isinstance(result, AtmoFarmError):
            self._refuse(result)
            return now
        for warning in result.warnings:
            log.event(logger, logging.WARNING, str(warning))
        self._tell_all("warning", [str(warning) for warning in result.warnings])
        try:
            self._new = self._loader.take_in(result)
            self._plan(result.changes)
        except AtmoFarmError as error:
            self._loader.drop(result.generation, str(error))
            self._refuse(error)
            return now
        # The old generation's consumers log with what they have inherited; the master and the new ones with both.
        log.redact({*secrets(self.generation.directive), *secrets(self._new.directive)})
        processes.preload_for(self._new.directive)
        heap.freeze()
        self._phase = self._follow
        return now

    def _plan(self, changes: str) -> None:
        """Sort the workers into kept and ending, and add those that are new. CannotStart if there is no place left."""
        workers = self._fleet.wishes.workers
        wanted = {(role.key, number): role for role in self._new.roles() for number in range(workers(role))}
        ending = []
        for worker in self._fleet.workers:
            role = wanted.get(worker.key)
            if role is not None and self._new.recipe(role) == worker.recipe:
                self._kept.append(worker)
                del wanted[worker.key]
            else:
                ending.append(worker)
        self._fleet.check_places(len(wanted))
        starting = self._fleet.add(self._new, [(role, number) for (_, number), role in wanted.items()])
        self.changes = changes
        plan: dict[str, Any] = {
            "changes": changes,
            "unchanged": sum(not worker.role.is_monitor for worker in self._kept),
            "starting": " ".join(worker.name for worker in starting),
            "ending": " ".join(worker.name for worker in ending),
        }
        log.event(logger, logging.INFO, f"reload: generation {self._new.number} accepted", **plan)
        self._tell({"stage": "accepted", "generation": self._new.number, **plan})
        self._roll = Roll(
            self._fleet,
            starting,
            ending,
            self._settings.boot_timeout_s,
            self._tell,
            up=lambda: self._commit(len(ending)),
            failed=self._roll_back,
        )

    def _follow(self, now: float) -> float:
        assert self._roll is not None
        wake = self._roll.step(now)
        self.is_over = self._roll.is_over
        return wake

    # Ways out

    def _commit(self, draining: int) -> None:
        roles = {role.key: role for role in self._new.roles()}
        for worker in self._kept:
            worker.adopt(self._new, roles[worker.role.key])
        self.generation = self._new
        self._fleet.wishes.keep(self._new)
        self._loader.prune(self._new)
        log.bind(generation=self._new.number)
        log.event(logger, logging.INFO, "reload: in force")
        self._tell({"stage": "in force", "generation": self._new.number, "draining": draining})

    def _roll_back(self, reason: str) -> None:
        self._loader.drop(self._new.number, reason)
        self._loader.prune(self.generation)
        self.refusal = f"generation {self._new.number} was rolled back: {reason}"
        log.event(logger, logging.ERROR, f"reload: {self.refusal}; generation {self.generation.number} goes on")
        self._tell({"stage": "rolling back", "reason": reason})

    def _refuse(self, error: AtmoFarmError) -> None:
        problems = str(error).splitlines() or [type(error).__name__]
        for problem in problems:
            log.event(logger, logging.ERROR, f"reload: {problem}")
        self._tell_all("problem", problems)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        self.refusal = f"refused: {problems[0]}{more}"
        log.event(logger, logging.ERROR, f"reload refused; generation {self.generation.number} goes on")
        self.is_over = True

    def _tell_all(self, kind: str, texts: list[str]) -> None:
        size = 0
        for number, text in enumerate(texts):
            size += 6 * min(len(text), TEXT_TOLD)  # bytes of the longest escape
            if size > BYTES_TOLD:
                self._tell({kind: f"and {len(texts) - number} more; the log has them all"})
                return
            self._tell({kind: text})
