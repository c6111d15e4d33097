"""What the master and its children tell each other, one JSON object in each line.

    child → master   {"event": "ready"}
                     {"event": "waiting", "on": "nats default", "reason": "connection refused"}
                     {"event": "failed", "reason": "module hello: …"}
    master → child   {"command": "reopen_log"}
                     {"command": "log_level", "level": "debug"}

Unknown keys are passed over, so that a newer end may say more; an unknown event or command is malformed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import attrs

LINE_LIMIT = 16 << 10
"""Bytes of the longest line that is read; a longer one is malformed."""

TEXT_LIMIT = 2048
"""Characters of a text that is sent, so that no reason makes a line too long (6 bytes is the longest JSON escape)."""


def _text() -> str:
    text: str = attrs.field(converter=lambda value: value[:TEXT_LIMIT], validator=attrs.validators.instance_of(str))
    return text


@attrs.frozen
class Ready:
    """The child serves: connected and warm. After `Waiting` it means that the broker is there again."""

    kind: ClassVar[str] = "ready"


@attrs.frozen
class Waiting:
    """The child is up and would serve, but what it needs is out of reach."""

    kind: ClassVar[str] = "waiting"
    on: str = _text()
    """What is out of reach, as the Directive names it: `nats default`."""
    reason: str = _text()


@attrs.frozen
class Failed:
    """The child cannot boot; it exits with code 10 after this."""

    kind: ClassVar[str] = "failed"
    reason: str = _text()


@attrs.frozen
class ReopenLog:
    """Open the log file again: it was rotated."""

    kind: ClassVar[str] = "reopen_log"


@attrs.frozen
class LogLevel:
    """Log from this level up: error, warning, info or debug."""

    kind: ClassVar[str] = "log_level"
    level: str = _text()


Event = Ready | Waiting | Failed
Command = ReopenLog | LogLevel

_EVENTS: Mapping[str, type[Event]] = {kind.kind: kind for kind in (Ready, Waiting, Failed)}
_COMMANDS: Mapping[str, type[Command]] = {kind.kind: kind for kind in (ReopenLog, LogLevel)}

MessageT = TypeVar("MessageT")


def encode(message: Event | Command) -> bytes:
    """The message as one line, with its end."""
    key = "event" if isinstance(message, Event) else "command"
    return json.dumps({key: message.kind, **attrs.asdict(message)}).encode() + b"\n"


def decode_event(line: bytes) -> Event:
    """What a child said; ValueError if the line is malformed."""
    return _decode(line, "event", _EVENTS)


def decode_command(line: bytes) -> Command:
    """What the master wants; ValueError if the line is malformed."""
    return _decode(line, "command", _COMMANDS)


def _decode(line: bytes, key: str, kinds: Mapping[str, type[MessageT]]) -> MessageT:
    try:
        content = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("not an object")
    kind = content.get(key)
    cls = kinds.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ValueError(f"unknown {key}")
    names = [field.name for field in attrs.fields(cls)]  # type: ignore[arg-type]
    values = {name: content[name] for name in names if isinstance(content.get(name), str)}
    if len(values) < len(names):
        raise ValueError(f"{kind} needs {', '.join(names)}, each a text")
    return cls(**values)
