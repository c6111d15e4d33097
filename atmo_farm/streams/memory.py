"""NATS core's twin inside one process: the same behaviour without a server, for tests of handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal

import attrs

from atmo_farm.errors import PublishError
from atmo_farm.streams import subjects
from atmo_farm.streams.base import Handle, Message, Output, StreamEvents
from atmo_farm.streams.codec import NO_HEADERS, Codec
from atmo_farm.streams.headers import REPLAY_FOR, checked_name, clean, encode, error_answer
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
        self.kept: list[str] = []
        """Subjects, as patterns, of which somebody keeps the messages (streams.memory_durable)."""
        self._subscribers: list[_Subscriber] = []
        self._turns: dict[str, int] = {}
        self._inboxes = 0

    def subscribe(self, pattern: str, receive: Callable[[Delivery], None], group: str = "") -> Callable[[], None]:
        """Give every matching message to `receive`, or to one subscriber of the group; call the result to end it."""
        subscriber = _Subscriber(pattern, group, receive)
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        """Pass a message on at once; nobody there: it is gone."""
        delivery = Delivery(subject, data, headers or {}, reply)
        groups: dict[str, list[_Subscriber]] = {}
        for subscriber in tuple(self._subscribers):
            if not subjects.matches(subscriber.pattern, subject):
                continue
            if subscriber.group:
                groups.setdefault(subscriber.group, []).append(subscriber)
            else:
                subscriber.receive(delivery)
        for group, members in groups.items():
            turn = self._turns.get(group, 0)
            self._turns[group] = turn + 1
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

    durable = redelivers = False

    def __init__(
        self,
        broker: MemoryBroker,
        subject: str,
        *,
        group: str | None,
        events: StreamEvents,
        envelope: Literal["auto", "raw", "grav"] = "auto",
        whom: str = "",
        max_pending: int = MAX_MESSAGES,
        max_pending_bytes: int = MAX_BYTES,
    ):
        self._broker = broker
        self._subject = subject
        self._group = group or ""
        self._whom = whom
        self._codec = Codec(envelope)
        self._pending: Pending[Delivery] = Pending(self._message, events.dropped, max_pending, max_pending_bytes)
        self._unsubscribe: Callable[[], None] | None = None
        self._consumes = self._paused = False

    async def open(self) -> None:
        """Nothing to connect to."""

    async def consume(self, handle: Handle) -> None:
        """Subscribe and hand over."""
        self._pending.start(handle)
        self._consumes = True
        if not self._paused:
            await self.resume()

    async def pause(self) -> None:
        """Leave the queue group."""
        self._paused = True
        self._end_subscription()

    async def resume(self) -> None:
        """Subscribe again."""
        self._paused = False
        if self._consumes and self._unsubscribe is None:
            self._unsubscribe = self._broker.subscribe(self._subject, self._receive, self._group)

    async def publish(self, output: Output) -> None:
        """Pass it to the broker's subscribers."""
        send(self._broker, output.subject, output.headers, self._codec.payload(output))

    def ack(self, message: Message) -> None:
        """Nothing: the broker has forgotten it."""

    def give_back(self, message: Message, delay_s: float) -> None:
        """Nothing: the broker has forgotten it."""

    def terminate(self, message: Message) -> None:
        """Nothing: the broker has forgotten it."""

    async def bury(self, letter: Output) -> None:
        """PublishError: nobody keeps it here."""
        raise PublishError(f"nobody keeps {letter.id} here", transient=False)

    async def answer_error(self, message: Message, code: int, text: str) -> None:
        """An empty message with the service error headers, if somebody waits for one."""
        if message.reply:
            send(self._broker, message.reply, error_answer(code, text), b"")

    async def stop(self) -> None:
        """Unsubscribe and hand over what is pending."""
        self._end_subscription()
        await self._pending.finish()

    async def close(self) -> None:
        """Stop handing over."""
        self._end_subscription()
        self._pending.abandon()

    def abandon(self) -> int:
        """Hand over nothing more."""
        return self._pending.abandon()

    async def lag(self) -> Mapping[int, int]:
        """The broker keeps nothing."""
        return {}

    def pending(self) -> int:
        """Messages received and not yet handed over."""
        return len(self._pending)

    def _end_subscription(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _receive(self, delivery: Delivery) -> None:
        if delivery.headers.get(REPLAY_FOR, self._whom) != self._whom:
            return
        self._pending.offer(delivery, len(delivery.subject) + len(delivery.data))
        self._pending.tell_drops()

    def _message(self, delivery: Delivery) -> Message:
        return self._codec.message(delivery.subject, delivery.reply, received(delivery), delivery.data)


def received(delivery: Delivery) -> dict[str, str]:
    """The headers as a message has them."""
    return {name.lower(): value for name, value in delivery.headers.items()} if delivery.headers else NO_HEADERS


def send(broker: MemoryBroker, subject: str, headers: Mapping[str, str], data: bytes) -> None:
    """Publish as a client does that knows the server's bounds. PublishError."""
    sent = {checked_name(name): clean(value) for name, value in headers.items()}
    size = len(data) + (len(encode(sent)) if sent else 0)
    if size > broker.max_payload:
        raise PublishError(
            f"{size} bytes are more than the broker's max_payload of {broker.max_payload}", transient=False
        )
    if broker.refusing:
        raise PublishError("the broker is out of reach", transient=True)
    broker.publish(subject, data, sent)
