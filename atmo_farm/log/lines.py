"""From a log record to one line of bytes: text, JSON, text for the journal, or a journal entry.

    text     2026-01-31T12:00:00.123Z WARN  [app#2 consumer users-get/0] message key=value key="two words"
    json     {"time":"2026-01-31T12:00:00.123Z","level":"warn","app":"app","generation":2,"process":"…","message":"…",…}
    prefix   <4>[app#2 consumer users-get/0] message key=value key="two words"
    journal  MESSAGE=[app#2 consumer users-get/0] message key=value␊PRIORITY=4␊ATMO_HANDLER=users-get␊…

No control character, escape sequence, line end or direction mark of a foreign text gets through: they are escaped.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import re
from collections.abc import Mapping
from typing import Protocol

from atmo_farm.log.redact import Redactor

LIMIT = 4096
"""Bytes of a line with its line end: PIPE_BUF, what a pipe takes whole or not at all."""

CUT = "…[cut]"

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)

Value = str | int | float | bool | None

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')
_NAMES = {"WARNING": "warn", "CRITICAL": "error"}
_PRIORITIES = {"error": 3, "warn": 4, "info": 6}
_COLOURS = {"error": "\x1b[31m", "warn": "\x1b[33m", "info": "\x1b[32m", "debug": "\x1b[2m", "trace": "\x1b[2m"}
_RESERVED = ("time", "level", "message")
_JOURNAL_FIELDS = ("app", "generation", "process", "handler", "function", "message_id", "subject", "cause", "guest")


class Formatter(Protocol):
    """One of the forms."""

    def render(self, level: str, created: float, message: str, fields: Mapping[str, Value]) -> bytes:
        """The line with its line end; it may be too long."""


def make(record: logging.LogRecord, context: Mapping[str, Value], redactor: Redactor, formatter: Formatter) -> bytes:
    """The record as one line of at most LIMIT bytes; texts are shortened, the longest first, until it fits."""
    message, fields = _texts(record, context, redactor)
    level = _NAMES.get(record.levelname, record.levelname.lower())
    line = formatter.render(level, record.created, message, fields)
    longest = LIMIT
    while len(line) > LIMIT:
        longest //= 2
        if longest < 8:  # hundreds of fields: only those of every line stay
            fields = {name: value for name, value in fields.items() if name in context}
            longest = LIMIT // 4
        message = _cut(message, longest)
        fields = {name: _cut(value, longest) if isinstance(value, str) else value for name, value in fields.items()}
        line = formatter.render(level, record.created, message, fields)
    return line


def _texts(record: logging.LogRecord, context: Mapping[str, Value], redactor: Redactor) -> tuple[str, dict[str, Value]]:
    fields: dict[str, Value] = dict(context)
    if not record.name.startswith("atmo_farm"):
        fields["logger"] = record.name
    own: Mapping[str, Value] = getattr(record, "fields", {})
    fields.update((f"field_{name}" if name in _RESERVED else name, value) for name, value in own.items())
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    clean = {name: _value(value, redactor) for name, value in fields.items() if value is not None and value != ""}
    return _head(record.getMessage(), redactor), clean


def _value(value: object, redactor: Redactor) -> Value:
    text = _head(str(value), redactor)
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):  # JSON has no NaN
        return value if text == str(value) else text
    return text


def _head(text: str, redactor: Redactor) -> str:
    head = redactor.head(text, LIMIT)
    return head if len(text) <= LIMIT else head + CUT


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - len(CUT)] + CUT


class JsonFormatter:
    """A JSON object per line."""

    def render(self, level: str, created: float, message: str, fields: Mapping[str, Value]) -> bytes:
        """The fixed keys first."""
        head = {name: fields[name] for name in ("app", "generation", "process") if name in fields}
        line = {"time": _time(created), "level": level, **head, "message": message, **fields}
        text = _JSON.encode(line)
        return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode() + b"\n"


class TextFormatter:
    """A line for people; colour for the level."""

    def __init__(self, colour: bool):
        self._colour = colour

    def render(self, level: str, created: float, message: str, fields: Mapping[str, Value]) -> bytes:
        """Time, level and body."""
        word = f"{level.upper():5}"
        if self._colour:
            word = f"{_COLOURS.get(level, '')}{word}\x1b[0m"
        return f"{_time(created)} {word} {_body(message, fields)}\n".encode()


class PrefixFormatter:
    """What the journal makes entries of when it is written to standard error; it adds the time."""

    def render(self, level: str, created: float, message: str, fields: Mapping[str, Value]) -> bytes:  # noqa: ARG002
        """Priority and body."""
        return f"<{priority(level)}>{_body(message, fields)}\n".encode()


class JournalFormatter:
    """The journal's native protocol: a field per line, no value has a line end."""

    def render(self, level: str, created: float, message: str, fields: Mapping[str, Value]) -> bytes:  # noqa: ARG002
        """The body as MESSAGE, and what one would search for as fields of their own; the journal adds the time."""
        lines = [f"MESSAGE={_body(message, fields)}", f"PRIORITY={priority(level)}"]
        lines.append("SYSLOG_IDENTIFIER=atmo-farm")
        lines += [f"ATMO_{name.upper()}={escape(str(fields[name]))}" for name in _JOURNAL_FIELDS if name in fields]
        return ("\n".join(lines) + "\n").encode()


def priority(level: str) -> int:
    """syslog's number of a level."""
    return _PRIORITIES.get(level, 7)


def _body(message: str, fields: Mapping[str, Value]) -> str:
    app, generation = fields.get("app", ""), fields.get("generation", "")
    place = [f"{app}#{generation}" if generation != "" else str(app), str(fields.get("process", ""))]
    words = [f"[{escape(' '.join(filter(None, place)))}]"] if any(place) else []
    words.append(escape(message))
    words += [
        f"{name}={_quoted(value)}" for name, value in fields.items() if name not in ("app", "generation", "process")
    ]
    return " ".join(words)


def _quoted(value: Value) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if _NEEDS_QUOTES.search(text):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return escape(text)


def escape(text: str) -> str:
    """The text without what a terminal or a log might take for more than text."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    return short or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")


def _time(created: float) -> str:
    moment = datetime.datetime.fromtimestamp(created, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
