"""Grav envelopes: how Atmo wraps what it sends.

    {"meta": {"uuid", "parent_id", "response_to", "msg_type", "timestamp"}, "payload": {"data": "<base64>"}}

Source: github.com/suborbital/grav, grav/message.go: data is a Go []byte (base64, or null when empty), timestamp a Go
time.Time (RFC 3339); a receiver in Go drops an envelope whose timestamp is a number.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import attrs

from atmo_farm import clock

MARK = b'"msg_type"'
"""What the bytes of every envelope hold: without it nothing is parsed."""


@attrs.frozen
class Envelope:
    """What counts of an envelope that came in."""

    uuid: str
    data: bytes


def unwrap(data: bytes) -> Envelope | None:
    """The envelope that these bytes are; None for anything else, which is then a raw payload."""
    if MARK not in data:
        return None
    try:
        envelope = json.loads(data)
        meta, payload = envelope["meta"], envelope["payload"]
        return _envelope(meta["uuid"], meta["msg_type"], payload["data"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _envelope(uuid: Any, msg_type: Any, encoded: Any) -> Envelope | None:
    if not (isinstance(uuid, str) and uuid and isinstance(msg_type, str)):
        return None
    if encoded is None:
        return Envelope(uuid, b"")
    return Envelope(uuid, base64.b64decode(encoded, validate=True)) if isinstance(encoded, str) else None


def wrap(data: bytes, msg_type: str, parent_id: str = "", response_to: str = "") -> bytes:
    """The bytes in a new envelope; Atmo's `msg_type` is the subject that a message goes to."""
    sent = datetime.fromtimestamp(clock.wall(), UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    meta = {
        "uuid": str(uuid4()),
        "parent_id": parent_id,
        "response_to": response_to,
        "msg_type": msg_type,
        "timestamp": sent,
    }
    payload = {"data": base64.b64encode(data).decode()}
    return json.dumps({"meta": meta, "payload": payload}, separators=(",", ":")).encode()
