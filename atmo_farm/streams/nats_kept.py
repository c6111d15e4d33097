"""What JetStream tells of a message that it keeps, as a dead letter."""

from __future__ import annotations

import datetime

from atmo_farm.streams.base import Kept

MSG_ID, TTL, SIZE = "Nats-Msg-Id", "Nats-TTL", "Nats-Msg-Size"

LAST_S = 9e9
"""The last moment, in the year 2255, that the server's clock can be compared with."""

ADDED = 4
"""Headers that the server puts after a message's own in a direct answer: Nats-Stream, -Subject, -Sequence,
-Time-Stamp."""


def kept(sequence: int, stored_s: float, headers: tuple[tuple[str, str], ...]) -> Kept:
    """Without what JetStream itself has put or reads there."""
    own = {name: value for name, value in headers if name in (MSG_ID, TTL, SIZE)}
    size = own.get(SIZE, "")
    others = tuple(pair for pair in headers if pair[0] not in own)
    known = size.isdecimal() and len(size) < 20  # a sender may write anything
    return Kept(str(sequence), own.get(MSG_ID, ""), others, int(size) if known else 0, stored_s)


def split(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    """A message's own headers, and what the server has put after them in a direct answer."""
    return headers[:-ADDED], dict(headers[-ADDED:])


def seconds(time: str) -> float:
    """Of RFC 3339 with nanoseconds, in UTC."""
    whole, _, fraction = time.rstrip("Z").partition(".")
    moment = datetime.datetime.fromisoformat(whole + "+00:00")
    return moment.timestamp() + (float(f"0.{fraction}") if fraction.isdecimal() else 0.0)


def rfc3339(wall_s: float) -> str:
    """A moment as the server reads it; one that it cannot compare with is moved to where it can."""
    return datetime.datetime.fromtimestamp(min(max(wall_s, 0), LAST_S), datetime.UTC).isoformat()
