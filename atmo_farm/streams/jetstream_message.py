"""What JetStream tells of a message by the reply subject on which it wants to hear what became of it.

    $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<timestamp ns>.<pending>
    $JS.ACK.<domain>.<account>.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<timestamp ns>.<pending>.<…>

Source: nats-architecture-and-design, ADR-15.
"""

from __future__ import annotations

from collections.abc import Callable

ACK_PREFIX = b"$JS.ACK."
_SHORT, _LONG = 9, 11
"""Tokens; of the longer form at least."""
_SPREAD = 0x9E3779B97F4A7C15
"""The golden ratio in 64 bits."""


class Delivery:
    """One delivery of one message: `streams.base.Origin`, and what settles it."""

    __slots__ = ("attempt", "consumer", "pending", "reply", "sequence", "stream", "timestamp")

    def __init__(self, reply: bytes):
        """ValueError for what is no such reply subject."""
        tokens = reply.split(b".")
        count = len(tokens)
        if count != _SHORT and count < _LONG:
            raise ValueError("a reply subject that is not JetStream's")
        at = 2 if count == _SHORT else 4
        self.reply = reply
        self.stream = tokens[at].decode()
        self.consumer = tokens[at + 1]
        self.attempt = int(tokens[at + 2])
        self.sequence = int(tokens[at + 3])
        self.timestamp = tokens[at + 5].decode()
        self.pending = tokens[at + 6]

    @property
    def id(self) -> str:
        """The same at each delivery; the timestamp tells a stream's messages from those of one of the same name that
        was there before."""
        return f"{self.stream}.{self.sequence}.{self.timestamp}"

    @property
    def number(self) -> int:
        """The same in 64 bits, never 0."""
        return (self.sequence * _SPREAD + int(self.timestamp)) % 2**64 or 1

    @property
    def stored_s(self) -> float:
        """When the stream got it, wall-clock seconds."""
        return int(self.timestamp) / 1_000_000_000

    def field(self, name: str) -> str:
        """`atmo-stream`, `atmo-consumer`, `atmo-sequence`, `atmo-timestamp` (milliseconds since 1970),
        `atmo-deliveries`, `atmo-pending` (how many wait behind it)."""
        read = _FIELDS.get(name)
        return read(self) if read is not None else ""


_FIELDS: dict[str, Callable[[Delivery], str]] = {
    "atmo-stream": lambda delivery: delivery.stream,
    "atmo-consumer": lambda delivery: delivery.consumer.decode(),
    "atmo-sequence": lambda delivery: str(delivery.sequence),
    "atmo-timestamp": lambda delivery: str(int(delivery.timestamp) // 1_000_000),
    "atmo-deliveries": lambda delivery: str(delivery.attempt),
    "atmo-pending": lambda delivery: delivery.pending.decode(),
}
