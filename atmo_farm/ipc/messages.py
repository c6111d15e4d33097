"""What the master and its children tell each other, one JSON object in each line.

    child → master   {"event": "ready"}
                     {"event": "waiting", "on": "nats default", "reason": "connection refused"}
                     {"event": "failed", "reason": "module hello: …"}
                     {"event": "ask", "id": "71.3", "verb": "reload", "cause": "…", "value": ""}  (the monitor only)
    master → child   {"command": "reopen_log"}
                     {"command": "log_level", "level": "debug"}
                     {"command": "suspect", "number": 4711, "deaths": 2}
                     {"command": "pause", "paused": true}                      (to the consumers of one handler)
                     {"command": "told", "ids": ["71.3"], "what": {"progress": {…}}}      (to the monitor)

`what` is what the control protocol answers: progress, and in the end a result or an error (docs/control-protocol.md).

Unknown keys are passed over, so that a newer end may say more; an unknown event or command is malformed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import attrs

LINE_LIMIT = 16 << 10
"""Bytes of the longest line that is read; a longer one is malformed."""

TEXT_LIMIT = 2048
"""Characters of a text that is sent, so that no reason makes a line too long (6 bytes is the longest JSON escape)."""


def _text(default: Any = attrs.NOTHING) -> str:
    text: str = attrs.field(default=default, converter=_cut, validator=attrs.validators.instance_of(str))
    return text


def _cut(value: Any) -> Any:
    return value[:TEXT_LIMIT] if isinstance(value, str) else value


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
class Ask:
    """The monitor wants something of the master, for somebody at its control socket; answered by `Told`s."""

    kind: ClassVar[str] = "ask"
    id: str = _text()
    verb: str = _text()
    """`reload`, `restart`, … (`master.verbs`)."""
    cause: str = _text()
    """Why, and who: it goes into the log and the generation's record."""
    value: str = _text(default="")
    """The verb's argument: a handler's name, a level, a generation."""
    count: int = attrs.field(default=0, validator=attrs.validators.instance_of(int))
    """How many workers `scale` wants."""


@attrs.frozen
class ReopenLog:
    """Open the log file again: it was rotated."""

    kind: ClassVar[str] = "reopen_log"


@attrs.frozen
class LogLevel:
    """Log from this level up: error, warning, info or debug."""

    kind: ClassVar[str] = "log_level"
    level: str = _text()


@attrs.frozen
class Suspect:
    """Processes of this handler died while the guest of one message ran."""

    kind: ClassVar[str] = "suspect"
    number: int = attrs.field(validator=attrs.validators.instance_of(int))
    """`Message.number`."""
    deaths: int = attrs.field(validator=attrs.validators.instance_of(int))
    """How many processes, all in all."""


@attrs.frozen
class Pause:
    """Take no new message from the broker any more, or take them again."""

    kind: ClassVar[str] = "pause"
    paused: bool = attrs.field(validator=attrs.validators.instance_of(bool))


@attrs.frozen
class Told:
    """How it stands with what was asked."""

    kind: ClassVar[str] = "told"
    ids: list[str] = attrs.field(validator=attrs.validators.instance_of(list))
    """Of the asks that this is about."""
    what: dict[str, Any] = attrs.field(validator=attrs.validators.instance_of(dict))
    """`{"progress": {…}}`, or the end: `{"result": {…}}` or `{"error": "…", "exit": 5}`."""


Event = Ready | Waiting | Failed | Ask
Command = ReopenLog | LogLevel | Suspect | Pause | Told

_EVENTS: Mapping[str, type[Event]] = {kind.kind: kind for kind in (Ready, Waiting, Failed, Ask)}
_COMMANDS: Mapping[str, type[Command]] = {kind.kind: kind for kind in (ReopenLog, LogLevel, Suspect, Pause, Told)}

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
    try:
        return cls(**{name: content[name] for name in names if name in content})
    except TypeError as error:
        raise ValueError(f"{kind} needs {', '.join(names)} of the right types") from error
