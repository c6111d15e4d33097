"""Compiled modules that are gone from the cache folder are made again."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import attrs

from atmo_farm import log
from atmo_farm.errors import AtmoFarmError
from atmo_farm.master.fleet import Fleet
from atmo_farm.master.generation import Generation
from atmo_farm.master.helper import Helper
from atmo_farm.master.loader import Loader

logger = logging.getLogger("atmo_farm.master")

RETRY_S = 3.0
"""After an attempt that failed: the disk may be full, or the bundle gone as well."""


class Recompiler:
    """Compiles the generation in force again, by a helper, when a worker misses its modules.

    `take_over` gets that generation with the modules that are there now.
    """

    def __init__(self, fleet: Fleet, loader: Loader, take_over: Callable[[Generation], None]):
        self._fleet = fleet
        self._loader = loader
        self._take_over = take_over
        self._helper: Helper | None = None
        self._not_before = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether the loader's helper is its own."""
        return self._helper is not None

    def step(self, now: float, in_force: Generation) -> float:
        """Begin when modules are missing, or go on; returns when it wants its next turn."""
        if self._helper is None:
            if not self._fleet.spawner.modules_missing:
                return math.inf
            if now < self._not_before:
                return self._not_before
            self._not_before = now + RETRY_S
            try:
                self._helper = self._loader.recompile(in_force)
            except OSError as error:
                log.event(logger, logging.ERROR, "no helper process", reason=str(error))
                return self._not_before
        wake = self._helper.step(now)
        if self._helper.result is None:
            return wake
        result, self._helper = self._helper.result, None
        self._loader.finish()
        if isinstance(result, AtmoFarmError):
            log.event(logger, logging.ERROR, "not compiled again", reason=str(result))
        else:
            self._fleet.spawner.modules_missing = False
            self._take_over(attrs.evolve(in_force, modules=result.modules))
        return now

    def stop(self) -> None:
        """Forget it; the loader ends the helper."""
        self._helper = None
