"""Whether a source is up: it goes down at the first failure to connect, or after several calls without an answer, and a
probe brings it back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from atmo_farm import clock, log
from atmo_farm.datasource.errors import CallFailed

logger = logging.getLogger("atmo_farm.datasource")

SILENT_CALLS = 5
"""So many calls in a row that reached their deadline without an answer, and the source counts as down."""

PROBE_EVERY_S = 0.5
"""Between two probes of a source that is down."""


class Breaker:
    """`probe` returns when the source has answered, or raises Unreachable; `on_down` is told the reason once for each
    outage, before the first probe."""

    def __init__(self, name: str, probe: Callable[[], Awaitable[None]], on_down: Callable[[str], None]):
        self._name = name
        self._probe = probe
        self._on_down = on_down
        self._silent = 0
        self._is_told = False
        self._task: asyncio.Task[None] | None = None
        self.reason = ""
        """Why it is down; empty while it is up."""
        self.opened = 0
        """How often it went down."""
        self.answered_at = 0.0
        """clock.monotonic() at the last answer to a call."""

    def start(self) -> None:
        """It is down until the first probe, which begins at once; only if that fails there is a log line."""
        self.reason = "not connected yet"
        self._begin()

    def answered(self) -> None:
        """A call got its answer, whatever it was."""
        self._silent = 0
        self.answered_at = clock.monotonic()

    def back(self) -> None:
        """It is up again: it has answered a call that was under way."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._up()

    def silent(self) -> None:
        """A call reached its deadline without an answer."""
        self._silent += 1
        if self._silent >= SILENT_CALLS:
            self.trip("it does not answer")

    def trip(self, reason: str) -> None:
        """It is down, until a probe says otherwise."""
        is_up = not self.reason
        self._because(reason)
        if is_up:
            self.opened += 1
            self._on_down(reason)
            self._begin()

    async def close(self) -> None:
        """Probe no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._bring_back(), name=f"probe {self._name}")

    def _because(self, reason: str) -> None:
        if reason != self.reason:
            self.reason = reason
            self._is_told = True
            log.event(logger, logging.WARNING, f"{self._name} is out of reach", reason=reason)

    async def _bring_back(self) -> None:
        while True:
            try:
                await self._probe()
                break
            except CallFailed as error:
                self._because(str(error))
            except Exception as error:
                log.event(logger, logging.ERROR, "internal error in a probe", source=self._name, exc_info=error)
            await asyncio.sleep(PROBE_EVERY_S)
        self._task = None
        self._up()

    def _up(self) -> None:
        self.reason = ""
        self._silent = 0
        if self._is_told:
            log.event(logger, logging.INFO, f"{self._name} is back")
        self._is_told = False
