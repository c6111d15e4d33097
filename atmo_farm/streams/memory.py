"""NATS core's twin inside one process: the same behaviour without a server, for tests of handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal

import attrs

from atmo_farm.errors import PublishError
from atmo_farm.streams import subjects
from atmo_farm.streams.base import Handle, Message, Output, StreamEvents
from atmo_farm.streams.codec import NO_HEADERS, Codec, error_output
from atmo_farm.streams.headers import checked_name, clean, error_answer
from atmo_farm.streams.pending import MAX_BYTES, MAX_MESSAGES, Pending


@attrs.frozen
class Delivery:
    """One message as the broker passes it on; header names as they were published."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    reply: str


@attrs.define(eq=False)
class _Subscriber:
    pattern: str
    group: str
    receive: Callable[[Delivery], None]


class MemoryBroker:
    """Wildcards, queue groups, reply subjects. `max_payload` in bytes; `refusing` makes publishing fail."""

    def __init__(self, max_payload: int = 1 << 20):
        self.max_payload = max_payload
        self.refusing = False
        self._subscribers: list[_Subscriber] = []
        self._turns: dict[tuple[str, str], int] = {}
        self._inboxes = 0

    def subscribe(self, pattern: str, receive: Callable[[Delivery], None], group: str = "") -> Callable[[], None]:
        """Give every matching message to `receive`, or to one subscriber of the group; call the result to end it."""
        subscriber = _Subscriber(pattern, group, receive)
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        """Pass a message on at once; nobody there: it is gone."""
        delivery = Delivery(subject, data, headers or {}, reply)
        groups: dict[tuple[str, str], list[_Subscriber]] = {}
        for subscriber in tuple(self._subscribers):
            if not subjects.matches(subscriber.pattern, subject):
                continue
            if subscriber.group:
                groups.setdefault((subscriber.pattern, subscriber.group), []).append(subscriber)
            else:
                subscriber.receive(delivery)
        for key, members in groups.items():
            turn = self._turns.get(key, 0)
            self._turns[key] = turn + 1
            members[turn % len(members)].receive(delivery)

    async def request(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> Delivery:
        """Publish with a reply subject of its own and wait for the first answer."""
        self._inboxes += 1
        inbox = f"_INBOX.{self._inboxes}"
        answer: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        end = self.subscribe(inbox, lambda delivery: None if answer.done() else answer.set_result(delivery))
        try:
            self.publish(subject, data, headers, inbox)
            return await answer
        finally:
            end()


class MemoryStream:
    """`streams.base.Stream` on a MemoryBroker."""

    def __init__(
        self,
        broker: MemoryBroker,
        subject: str,
        *,
        group: str | None,
        events: StreamEvents,
        envelope: Literal["auto", "raw", "grav"] = "auto",
        max_pending: int = MAX_MESSAGES,
        max_pending_bytes: int = MAX_BYTES,
    ):
        self._broker = broker
        self._subject = subject
        self._group = group or ""
        self._codec = Codec(envelope)
        self._pending: Pending[Delivery] = Pending(self._message, events.dropped, max_pending, max_pending_bytes)
        self._unsubscribe: Callable[[], None] | None = None

    async def open(self) -> None:
        """Nothing to connect to."""

    async def consume(self, handle: Handle) -> None:
        """Subscribe and hand over."""
        self._pending.start(handle)
        self._unsubscribe = self._broker.subscribe(self._subject, self._receive, self._group)

    async def publish(self, output: Output) -> None:
        """Pass it to the broker's subscribers."""
        data = self._codec.payload(output)
        headers = {checked_name(name): clean(value) for name, value in output.headers.items()}
        if len(data) > self._broker.max_payload:
            raise PublishError(
                f"{len(data)} bytes are more than the broker's max_payload of {self._broker.max_payload}",
                transient=False,
            )
        if self._broker.refusing:
            raise PublishError("the broker is out of reach", transient=True)
        self._broker.publish(output.subject, data, headers)

    async def answer_error(self, message: Message, code: int, text: str) -> None:
        """An empty message with the service error headers, if somebody waits for one."""
        if message.reply:
            await self.publish(error_output(message, error_answer(code, text)))

    async def stop(self) -> None:
        """Unsubscribe and hand over what is pending."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        await self._pending.finish()

    async def close(self) -> None:
        """Stop handing over."""
        self._pending.cancel()

    def pending(self) -> int:
        """Messages received and not yet handed over."""
        return len(self._pending)

    def _receive(self, delivery: Delivery) -> None:
        self._pending.offer(delivery, len(delivery.subject) + len(delivery.data))
        self._pending.tell_drops()

    def _message(self, delivery: Delivery) -> Message:
        headers = {name.lower(): value for name, value in delivery.headers.items()} if delivery.headers else NO_HEADERS
        return self._codec.message(delivery.subject, delivery.reply, headers, delivery.data)
