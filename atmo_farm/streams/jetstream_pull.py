"""Asking a durable consumer for messages: requests of a batch each on `$JS.API.CONSUMER.MSG.NEXT.<stream>.<durable>`.

What comes back on the inbox is messages, with a `$JS.ACK…` reply subject, and statuses, without one:

    100   idle heartbeat: nothing to deliver
    404, 408, 409   a request is over; `Nats-Pending-Messages` says how many of it were not delivered
    409   or the consumer was deleted, the leader changed, a limit of the consumer was exceeded
    503   nobody serves this consumer

Sources: nats-architecture-and-design, ADR-13 and ADR-37.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from nats import errors
from nats.aio.subscription import Subscription

from atmo_farm import log
from atmo_farm.errors import PublishError
from atmo_farm.streams.jetstream_consumer import Bound
from atmo_farm.streams.nats_link import NatsLink
from atmo_farm.streams.nats_parser import Sink

logger = logging.getLogger("atmo_farm.streams")

EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
"""So often the server says that a request stands; silence for two of them means that it does not."""
LEAST_BYTES = 16 << 20
"""Of one request: bounds the memory of a batch of large messages."""

_PENDING = re.compile(rb"Nats-Pending-Messages: *(\d+)")
_BYTES_LEFT = re.compile(rb"Nats-Pending-Bytes: *(\d+)")
_TOO_LARGE = "message size exceeds maxbytes"
_NANOSECONDS = 1_000_000_000


class Pull:
    """The requests of one stream.

    `room` is how many more messages it may have; `least` of them are asked for at once. `receive` takes the messages,
    `broken` is told why there will be no more, until `start` is called again.
    """

    def __init__(
        self,
        link: NatsLink,
        durable: str,
        least: int,
        room: Callable[[], int],
        receive: Sink,
        broken: Callable[[str], None],
    ):
        self._link = link
        self._client = link.client
        self._durable = durable
        self._least = least
        self._room = room
        self._receive_message = receive
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._subscription: Subscription | None = None
        self._ended: list[Subscription] = []
        """What may still come on these is taken, until the server has answered something else."""
        self._inbox = b""
        self._subject = ""
        self._largest = self._largest_bytes = self._most_bytes = 0
        self._expires_s = self._heartbeat_s = 0.0
        self.asked = 0
        """Messages that were asked for and have not come."""
        self.requests = 0
        """So many are open; the server says when one is over."""
        self._due = False
        self._heard = 0
        self._watch: asyncio.TimerHandle | None = None

    async def start(self, bound: Bound) -> None:
        """Begin to ask, on a new inbox. `bound` was read after the last `end`."""
        for subscription in self._ended:
            self._client.forget(subscription)
        self._ended.clear()
        await self.end()
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{bound.stream}.{self._durable}"
        self._largest, self._largest_bytes = bound.largest_request, bound.largest_request_bytes
        self._expires_s = min(EXPIRES_S, bound.longest_request_s or EXPIRES_S)
        self._heartbeat_s = min(HEARTBEAT_S, self._expires_s / 2.5)
        inbox = self._client.new_inbox()
        self._inbox = inbox.encode()
        self.asked = self.requests = 0
        self._subscription = await self._client.listen(inbox, "", self._receive)
        self._look_after(self._heard - 1)
        self._ask()

    def more(self) -> None:
        """There may be room: ask, once in a turn of the loop."""
        if not self._due and self._inbox and self._room() - self.asked >= self._least:
            self._due = True
            self._loop.call_soon(self._ask)

    async def stop(self) -> None:
        """Ask no more; returns when nothing more comes. In any state of the broker, unsubscribed in any case."""
        subscription = self._take_down()
        if subscription is not None:
            await self._link.unsubscribe(subscription)
            self._ended.append(subscription)

    async def end(self) -> None:
        """Ask no more; the server forgets what was asked, also what it gets only now, after an outage."""
        subscription = self._take_down()
        if subscription is not None:
            self._ended.append(subscription)
            try:
                await subscription.unsubscribe()
            except errors.Error as error:
                log.event(logger, logging.DEBUG, "unsubscribing failed", reason=self._link.reason(error))

    def _take_down(self) -> Subscription | None:
        """From now on nothing is asked; what comes is still taken."""
        self._inbox = b""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        subscription, self._subscription = self._subscription, None
        return subscription

    def _ask(self) -> None:
        self._due = False
        batch = self._room() - self.asked
        if batch < self._least or not self._inbox or not self._client.is_connected:
            return
        if self._largest:
            batch = min(batch, self._largest)
        self._most_bytes = self._largest_bytes or max(LEAST_BYTES, 2 * self._client.max_payload)
        request = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d,"max_bytes":%d}' % (
            batch, int(self._expires_s * _NANOSECONDS), int(self._heartbeat_s * _NANOSECONDS), self._most_bytes
        )  # fmt: skip
        try:
            self._link.publish(self._subject, b"", request, self._inbox)
        except PublishError as error:
            self._break(str(error))
            return
        self.asked += batch
        self.requests += 1
        self._heard += 1
        if self._largest:
            self.more()

    def _receive(self, subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        self._heard += 1
        if reply:
            if self.asked:
                self.asked -= 1
            self._receive_message(subject, reply, block, data)
        elif subject == self._inbox:
            self._status(block)

    def _status(self, block: bytes) -> None:
        line, _, _ = block.partition(b"\r\n")
        code, text = line[9:12], line[13:].decode("utf-8", "replace")
        if code == b"100":
            return
        pending = _PENDING.search(block)
        bytes_left = _BYTES_LEFT.search(block)
        if text.lower() == _TOO_LARGE and bytes_left is not None and int(bytes_left[1]) == self._most_bytes:
            self._break(
                f"a message is larger than the consumer's max_bytes of {self._most_bytes}: it stands in the way"
            )
        elif code in (b"404", b"408", b"409") and pending is not None:
            self.asked = max(0, self.asked - int(pending[1]))
            self.requests = max(0, self.requests - 1)
            self.more()
        elif code == b"503":
            self._break("nobody serves the consumer")
        else:
            self._break(text or f"status {code.decode('ascii', 'replace')}")

    def _look_after(self, heard: int) -> None:
        """Every heartbeat; `heard` is what it was the last time."""
        if self.asked and self._heard == heard and self._client.is_connected:
            self._break("the consumer is silent")
            return
        still = self._heard if self.asked else self._heard - 1
        self._watch = self._loop.call_later(2 * self._heartbeat_s, self._look_after, still)

    def _break(self, reason: str) -> None:
        if self._inbox:
            self._inbox = b""
            self._broken(reason)
