"""`--watch`: the farm reloads by itself when its application has changed on the disk."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from atmo_farm import log
from atmo_farm.directive.footprint import footprint
from atmo_farm.errors import AtmoFarmError, TimedOut
from atmo_farm.monitor.farm import Farm

logger = logging.getLogger("atmo_farm.monitor")

LOOK_S = 1.0
"""How often files are looked at, and how long they have to stay as they are before they are read: a copy may be under
way."""


class Watch:
    """Of one farm. What counts is how the source looked when the generation in force was read from it: so nothing is
    missed while there is no monitor."""

    def __init__(self, farm: Farm, source: Path):
        self._farm = farm
        self._source = source
        self._generation = 0
        self._done = ""
        """How it looked when the generation in force was read."""
        self._asked = self._last = ""
        """How it looked when a reload was asked for; and at the last look."""

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except AtmoFarmError as error:  # it was refused, and the master has said why
                log.event(logger, logging.DEBUG, "watch: not reloaded", reason=str(error))
            except OSError as error:
                log.event(logger, logging.WARNING, "watch: cannot look", path=str(self._source), reason=str(error))

    async def look(self) -> None:
        """Once; asks for a reload if it is time. Raises what that ends with."""
        last, self._last = self._last, await asyncio.to_thread(footprint, self._source)
        if (generation := self._farm.generation()) != self._generation:
            records = {record["generation"]: record for record in self._farm.history()}
            self._generation, self._done = generation, records.get(generation, {}).get("footprint", "")
        if not self._last or self._last != last:
            return
        if self._last == self._done:
            self._asked = ""
        if self._last in (self._done, self._asked):
            return
        self._asked = self._last
        try:
            await self._farm.ask("reload", "watch", _nothing)
        except TimedOut:  # nobody has read it
            self._asked = ""
            raise


async def _nothing(_progress: object) -> None:
    """Nobody follows it."""
