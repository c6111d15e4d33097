"""A handler's guests' own log lines: marked as theirs, limited in rate."""

from __future__ import annotations

import logging

from atmo_farm import log

logger = logging.getLogger("atmo_farm.guest")

LEVELS = {1: logging.ERROR, 2: logging.WARNING, 3: logging.INFO, 4: logging.DEBUG}


class HandlerGuestLog:
    """Where functions of one handler write to; past 100 lines a second (burst 1,000) lines are counted, not written."""

    def __init__(self, handler: str):
        self._handler = handler
        self._limit = log.RateLimit(lines_per_s=100, burst=1000)

    @property
    def dropped(self) -> int:
        """Lines that were ever over the limit."""
        return self._limit.dropped

    def line(self, level: int, text: str, function: str, request_id: str) -> None:
        """Write one line of a function; an unknown level is info."""
        severity = LEVELS.get(level, logging.INFO)
        if not logger.isEnabledFor(severity):
            return
        if not self._limit.allow():
            return
        log.event(
            logger,
            severity,
            text,
            handler=self._handler,
            function=function,
            message_id=request_id,
            guest=True,
            guest_lines_dropped=self._limit.take_dropped() or None,
        )
