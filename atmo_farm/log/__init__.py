"""Structured log lines over the standard library's `logging`; every package of the farm logs through `event`.

One line per event, at most 4,096 bytes, written at once or not at all: a full disk or a reader that has stopped costs
lines, which are counted, and never time. A forked child goes on writing to its parent's target; it calls `bind` to say
who it is, and its counts start at zero.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from atmo_farm.log import targets
from atmo_farm.log.handler import LineHandler
from atmo_farm.log.limit import RateLimit
from atmo_farm.log.lines import (
    Formatter,
    JournalFormatter,
    JsonFormatter,
    PrefixFormatter,
    TextFormatter,
    Value,
    priority,
)
from atmo_farm.log.redact import Redactor
from atmo_farm.log.targets import FileTarget, JournalTarget, NoTarget, Target, is_journal, standard_error, takes_entries

__all__ = [
    "LEVELS",
    "TRACE",
    "RateLimit",
    "bind",
    "configure",
    "dropped",
    "event",
    "prefixed",
    "redact",
    "redacted",
    "reopen",
    "set_level",
]

TRACE = 5
"""Below DEBUG: what each message and each guest does."""

LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_handler = LineHandler(TextFormatter(colour=False), NoTarget())
logging.addLevelName(TRACE, "TRACE")
os.register_at_fork(after_in_child=_handler.forget_counts)


def configure(
    level: str = "info",
    format: str = "auto",  # noqa: A002 - it is what the flag, the variable and the settings file call it
    file: Path | None = None,
    fields: Mapping[str, Value] | None = None,
    *,
    secrets: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Send all log lines of this process to `file`, or to standard error.

    `format`: text, json, journal, or auto (text on a terminal, journal under systemd, JSON lines elsewhere). For the
    journal, lines are its own entries, or where its socket is out of reach texts with a priority: `<4>…`.
    `fields` go into every line: app, generation, process. `secrets` of 4 characters and more never reach a line.
    CannotStart if the file cannot be opened.
    """
    journal = file is None and (format == "journal" or (format == "auto" and is_journal(2, environ)))
    target: Target
    if file is not None:
        target = FileTarget(file)
    elif journal and takes_entries(targets.JOURNAL_SOCKET):
        target = JournalTarget(targets.JOURNAL_SOCKET)
    else:
        target = standard_error()
    terminal = file is None and os.isatty(2)
    formatter: Formatter
    if isinstance(target, JournalTarget):
        formatter = JournalFormatter()
    elif journal:
        formatter = PrefixFormatter()
    elif format == "text" or (format == "auto" and terminal):
        formatter = TextFormatter(terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb")
    else:
        formatter = JsonFormatter()
    _handler.secrets = tuple(secrets)
    _handler.use(formatter, target, Redactor(_handler.secrets))
    _handler.fields = dict(fields or {})
    logging.getLogger().handlers[:] = [_handler]
    set_level(level)


def bind(**fields: Value) -> None:
    """Set fields of every further line of this process: who it is after a fork, the generation after a reload."""
    _handler.fields = {**_handler.fields, **fields}


def redact(secrets: Iterable[str]) -> None:
    """Keep these values and those of `configure` out of all further lines, instead of those given here before: a reload
    may change them."""
    _handler.redactor = Redactor((*_handler.secrets, *secrets))


def redacted(text: str, length: int) -> str:
    """The first `length` characters of a text that is shown elsewhere than in the log, without what `redact` names."""
    return _handler.redactor.head(text, length)


def event(
    logger: logging.Logger, level: int, message: str, /, *, exc_info: BaseException | None = None, **fields: Value
) -> None:
    """One line. Fields that are None or empty are left out; `exc_info` adds its stack trace, escaped, as a field."""
    if not logger.isEnabledFor(level):
        return
    trace: ExcInfo | None = (type(exc_info), exc_info, exc_info.__traceback__) if exc_info else None
    record = logging.LogRecord(logger.name, level, "", 0, message, (), trace)
    record.fields = fields
    logger.handle(record)


def prefixed(text: str, level: str, environ: Mapping[str, str] = os.environ) -> str:
    """What a command says on standard error, for the journal, if it leads there: each line with its priority."""
    if not is_journal(2, environ):
        return text
    return "\n".join(f"<{priority(level)}>{line}" for line in text.split("\n"))


def set_level(level: str) -> None:
    """trace, debug, info, warn or error, for the farm's own loggers; libraries give their warnings, at trace all."""
    logging.getLogger("atmo_farm").setLevel(LEVELS[level])
    logging.getLogger().setLevel(logging.DEBUG if level == "trace" else logging.WARNING)


def reopen() -> None:
    """Open the log file anew, after a rotation has moved it; on failure the old one stays and a line says so."""
    problem = _handler.target.reopen()
    if problem:
        event(logging.getLogger(__name__), logging.ERROR, "the log file was not reopened", reason=problem)


def dropped() -> int:
    """How many lines of this process were not written."""
    return _handler.dropped
