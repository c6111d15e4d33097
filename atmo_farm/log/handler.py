"""The one logging handler of a process."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from atmo_farm.log.lines import Formatter, Value, make
from atmo_farm.log.redact import Redactor
from atmo_farm.log.targets import Target

logger = logging.getLogger("atmo_farm.log")


class LineHandler(logging.Handler):
    """Writes each record as one line, or counts it. Never raises, never waits, and has no lock: a line is one write."""

    def __init__(self, formatter: Formatter, target: Target):
        super().__init__()
        self._formatter = formatter
        self._unreported = 0
        self.target = target
        self.redactor = Redactor()
        """What keeps secrets out of the lines."""
        self.secrets: tuple[str, ...] = ()
        """Of these, those that stay secret whatever the application is."""
        self.fields: Mapping[str, Value] = {}
        """What stands in every line."""
        self.dropped = 0
        """Lines that were not written, since the start or the fork."""

    def use(self, formatter: Formatter, target: Target, redactor: Redactor) -> None:
        """Change where and how lines are written."""
        self.target.close()
        self._formatter, self.target, self.redactor = formatter, target, redactor

    def forget_counts(self) -> None:
        """Start at zero: in a forked child, the parent's losses are the parent's."""
        self.dropped = self._unreported = 0

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """No lock: a fork while another thread logs must leave nothing held."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write it; the first line after a loss is preceded by one that says how many are missing."""
        try:
            line = make(record, self.fields, self.redactor, self._formatter)
            if (self._unreported and not self._report()) or not self.target.write(line):
                self._lose()
        except Exception:
            self._lose()

    def _lose(self) -> None:
        self.dropped += 1
        self._unreported += 1

    def _report(self) -> bool:
        text = "log lines were dropped: their reader was too slow, or the disk full"
        record = logging.LogRecord(logger.name, logging.WARNING, "", 0, text, (), None)
        record.fields = {"lines_dropped": self._unreported}
        if not self.target.write(make(record, self.fields, self.redactor, self._formatter)):
            return False
        self._unreported = 0
        return True
