"""NATS message headers on the wire: `NATS/1.0[ status]\\r\\n`, then `Name: value\\r\\n` lines, then an empty line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from atmo_farm.errors import PublishError

MESSAGE_ID = "nats-msg-id"
"""The header (as a received name) with the id that JetStream removes duplicates by."""

SERVICE_ERROR_CODE = "Nats-Service-Error-Code"
SERVICE_ERROR = "Nats-Service-Error"
"""The headers of an error answer, as NATS services send them."""

REPLAY_FOR = "Atmo-Replay-For"
"""Whom a replayed message is meant for, as `<identifier>.<handler>`: other handlers that get it too pass it over."""

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REPLAY_MARK = REPLAY_FOR.encode()
_UNSENDABLE = re.compile(r"[\r\n\x00:]")
_NEWLINES = re.compile(r"[\r\n\x00]+")


def decode(block: bytes) -> dict[str, str]:
    """A received block: names in lower case, the last value of a repeated name, broken lines left out."""
    headers: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        name = name.strip()
        if colon and name:
            headers[name.decode("ascii", "replace").lower()] = value.strip().decode("utf-8", "replace")
    return headers


def is_for_another(block: bytes, own: str) -> bool:
    """Whether a received block says that the message was replayed for another handler than `own`."""
    if _REPLAY_MARK not in block:
        return False
    return decode(block).get(REPLAY_FOR.lower(), own) != own


def encode(headers: Mapping[str, str]) -> bytes:
    """The block to send; line breaks inside a value become blanks. PublishError for a name that is not legal."""
    parts = ["NATS/1.0\r\n"]
    for name, value in headers.items():
        parts.append(f"{checked_name(name)}: {clean(value)}\r\n")
    parts.append("\r\n")
    return "".join(parts).encode("utf-8", "replace")


def pairs(block: bytes) -> tuple[tuple[str, str], ...]:
    """A received block without loss: names as they were written, repeated ones, bytes that are no UTF-8 as lone
    surrogates; broken lines left out."""
    found = []
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon and name.strip():
            found.append((_text(name), _text(value)))
    return tuple(found)


def encode_all(original: Iterable[tuple[str, str]], headers: Mapping[str, str]) -> bytes:
    """The block of `pairs`, then `headers`: what no client could have sent in a block is left out."""
    parts = [b"NATS/1.0\r\n"]
    for name, value in (*original, *headers.items()):
        if name and not _UNSENDABLE.search(name):
            parts.append(_bytes(name) + b": " + _bytes(clean(value)) + b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def _text(raw: bytes) -> str:
    return raw.strip().decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def checked_name(name: str) -> str:
    """The name without blanks around it; PublishError unless it is made of letters, digits and !#$%&'*+-.^_`|~."""
    stripped = name.strip()
    if not _NAME.fullmatch(stripped):
        raise PublishError(
            f"the header name {name[:64]!r} is not legal: letters, digits and dashes only", transient=False
        )
    return stripped


def clean(value: str) -> str:
    """The value in one line, as it arrives at the other end."""
    return _NEWLINES.sub(" ", value).strip()


def error_answer(code: int, text: str) -> dict[str, str]:
    """The headers that tell a sender that its message failed; the text is cut at 1,000 characters."""
    return {SERVICE_ERROR_CODE: str(code), SERVICE_ERROR: text[:1000]}
