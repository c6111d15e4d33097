"""What a stream of JetStream has received and not settled.

So long the server hears that it is in progress. What comes again meanwhile, or though it was settled (the server had
not heard it), is known by its number and not handed over twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from atmo_farm.streams.base import Origin
from atmo_farm.streams.jetstream_message import Delivery
from atmo_farm.streams.nats_client import WireClient

ACK, TERM = b"+ACK", b"+TERM"

REMEMBERED = 1024
"""Settlements, at least: more than are on their way when a connection breaks."""

_NANOSECONDS = 1_000_000_000


class InHand:
    """Of one consumer; `room_made` is called after each settlement."""

    def __init__(self, client: WireClient, ack_wait_s: float, room_made: Callable[[], None]):
        self._client = client
        self._every_s = ack_wait_s / 3
        self._room_made = room_made
        self._deliveries: dict[int, Delivery] = {}
        """Stream sequence → the delivery that is to be settled."""
        self._settled: set[int] = set()
        self._settled_before: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deliveries)

    def count(self, up_to: int) -> int:
        """Of messages up to this stream sequence."""
        return sum(sequence <= up_to for sequence in self._deliveries)

    def take(self, reply: bytes) -> Delivery | None:
        """What came with this reply subject; None if there is nothing to do about it. ValueError: not JetStream's."""
        delivery = Delivery(reply)
        sequence = delivery.sequence
        known = self._deliveries.get(sequence)
        if known is not None:
            known.reply = reply
            return None
        if delivery.attempt > 1 and (sequence in self._settled or sequence in self._settled_before):
            self._say(delivery, ACK)
            return None
        self._deliveries[sequence] = delivery
        return delivery

    def settle(self, origin: Origin | None, word: bytes) -> None:
        """For good: ACK or TERM. Nothing, if it is not in hand (any more)."""
        delivery = self._take_out(origin)
        if delivery is None:
            return
        self._settled.add(delivery.sequence)
        if len(self._settled) >= REMEMBERED:
            self._settled, self._settled_before = set(), self._settled
        self._say(delivery, word)
        self._room_made()

    def give_back(self, origin: Origin | None, delay_s: float) -> None:
        """The server delivers it again after so long. Nothing, if it is not in hand (any more)."""
        delivery = self._take_out(origin)
        if delivery is not None:
            delay = int(delay_s * _NANOSECONDS)
            self._say(delivery, b'-NAK {"delay": %d}' % delay if delay > 0 else b"-NAK")
            self._room_made()

    def forget(self) -> None:
        """Nothing of it can be settled any more."""
        self._deliveries.clear()
        self._settled.clear()
        self._settled_before.clear()

    def say_progress(self) -> None:
        """Of all, three times in each ack wait, from now on until `close`."""
        if self._client.is_connected:
            for delivery in self._deliveries.values():
                self._say(delivery, b"+WPI")
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self.say_progress)

    def close(self) -> None:
        """What is left is the server's again, when the ack wait is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _take_out(self, origin: Origin | None) -> Delivery | None:
        """It, if it is in hand: another delivery of its message may be, or one of its number in another stream."""
        if not isinstance(origin, Delivery) or self._deliveries.get(origin.sequence) is not origin:
            return None
        return self._deliveries.pop(origin.sequence)

    def _say(self, delivery: Delivery, word: bytes) -> None:
        self._client.send(b"PUB %b %d\r\n%b\r\n" % (delivery.reply, len(word), word))
