"""What the monitor wants for those who ask it: done at once, or queued where it changes the workers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from atmo_farm import log
from atmo_farm.directive.find import handler_named
from atmo_farm.directive.model import Directive
from atmo_farm.errors import AtmoFarmError, with_exit_code
from atmo_farm.ipc.messages import Ask, LogLevel, Pause
from atmo_farm.master.asks import Asks
from atmo_farm.master.fleet import Fleet
from atmo_farm.master.wishes import USAGE, check_count

logger = logging.getLogger("atmo_farm.master")


class Verbs:
    """Of one master; `stop` makes it drain, `show` brings its cards up to date."""

    def __init__(self, fleet: Fleet, asks: Asks, stop: Callable[[], None], show: Callable[[], None]):
        self._fleet = fleet
        self._asks = asks
        self._stop = stop
        self._show = show

    def obey(self, directive: Directive, stopping: bool) -> None:
        """Act on what was asked since the last turn; `directive` is the one in force."""
        asks, self._fleet.asks = self._fleet.asks, []
        for ask in asks:
            try:
                self._obey(ask, directive, stopping)
            except AtmoFarmError as error:
                self._fleet.answer([ask.id], {"error": str(error), "exit": error.exit_code})

    def _obey(self, ask: Ask, directive: Directive, stopping: bool) -> None:
        if ask.verb == "stop":
            self._fleet.answer([ask.id], {"progress": {"stage": "asked"}})
            if not stopping:
                log.event(logger, logging.INFO, f"{ask.cause}: draining")
                self._stop()
        elif ask.verb == "loglevel":
            self._set_log_level(ask)
        elif stopping:
            self._asks.refuse(ask, "the farm is stopping")
        elif ask.verb in ("pause", "resume"):
            self._pause(ask, directive)
        elif ask.verb in ("reload", "rollback"):
            self._asks.add(ask)
        elif ask.verb in ("restart", "scale"):
            handler = handler_named(directive, ask.value)  # at once, and again when it is its turn
            if ask.verb == "scale":
                check_count(handler, ask.count)
            self._asks.add(ask)
        else:
            raise with_exit_code(f"the master knows no {ask.verb!r}", USAGE)

    def _pause(self, ask: Ask, directive: Directive) -> None:
        """Of all workers; those that are forked later begin so (`Wishes`). One that cannot be told is replaced."""
        handler, paused = handler_named(directive, ask.value), ask.verb == "pause"
        wishes, was = self._fleet.wishes, ask.value in self._fleet.wishes.paused
        if paused is not was:
            log.event(logger, logging.INFO, f"{ask.verb} {handler.name}", cause=ask.cause)
            (wishes.paused.add if paused else wishes.paused.discard)(handler.name)
            for deaf in self._fleet.send(self._fleet.consumers(handler.name, leaving=True), Pause(paused)):
                self._fleet.kill(deaf, "it does not read its channel")
            self._show()  # whoever is told may look at once
        kept = handler.jetstream is not None or handler.source == "kafka"
        self._answer(ask, {"handler": handler.name, "changed": paused is not was, "kept": kept})

    def _set_log_level(self, ask: Ask) -> None:
        """Of all processes; those that are forked later inherit it."""
        if ask.value not in log.LEVELS:
            raise with_exit_code(f"there is no log level {ask.value!r}", USAGE)
        log.event(logger, logging.INFO, f"log level {ask.value}", cause=ask.cause)
        log.set_level(ask.value)
        self._fleet.send(self._fleet.workers, LogLevel(ask.value))
        self._answer(ask, {"level": ask.value})

    def _answer(self, ask: Ask, result: dict[str, Any]) -> None:
        self._fleet.answer([ask.id], {"result": result})
