"""NATS core: one connection, one subscription. The broker keeps nothing, so what is lost here is lost, and counted."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from typing import Literal

from nats.aio.subscription import Subscription

from atmo_farm.directive.connections import NatsConnection
from atmo_farm.directive.model import DeadLetter
from atmo_farm.errors import PublishError
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams.base import DONE, Handle, Message, Output, StreamEvents
from atmo_farm.streams.codec import NO_HEADERS, Codec
from atmo_farm.streams.nats_dead import DeadStream
from atmo_farm.streams.nats_link import PING_INTERVAL_S, NatsLink
from atmo_farm.streams.nats_requests import Requests
from atmo_farm.streams.pending import MAX_BYTES, MAX_MESSAGES, Pending

logger = logging.getLogger("atmo_farm.streams")

Received = tuple[bytes, bytes, bytes, bytes]


class NatsStream:
    """`streams.base.Stream` for one handler. `group` None: this subscriber gets every message; `whom`: what was
    replayed for another one than `<identifier>.<handler>` is passed over."""

    durable = redelivers = False

    def __init__(
        self,
        connection: NatsConnection,
        subject: str,
        *,
        group: str | None,
        client_name: str,
        events: StreamEvents,
        envelope: Literal["auto", "raw", "grav"] = "auto",
        dead_letter: DeadLetter | None = None,
        whom: str = "",
        ping_interval_s: float = PING_INTERVAL_S,
        max_pending: int = MAX_MESSAGES,
        max_pending_bytes: int = MAX_BYTES,
    ):
        self._link = NatsLink(connection, client_name, events, ping_interval_s)
        self._link.back.append(self._link.connected)
        self._client = self._link.client
        self._subject = subject
        self._group = group or ""
        self._whom = whom
        self._codec = Codec(envelope)
        requests = Requests(self._client)
        self._link.publish_refused.append(requests.refused)
        self._dead = DeadStream(requests, dead_letter) if dead_letter else None
        if self._dead is not None:
            self._link.back.append(self._dead.look_again)
        self._pending: Pending[Received] = Pending(self._message, events.dropped, max_pending, max_pending_bytes)
        self._subscription: Subscription | None = None
        self._consumes = self._paused = False

    async def open(self) -> None:
        """Connect, for as long as it takes."""
        await self._link.open()

    async def consume(self, handle: Handle) -> None:
        """Subscribe and hand over; CannotStart if the server does not let us."""
        self._client.after_chunk.append(self._pending.tell_drops)
        self._pending.start(handle)
        self._consumes = True
        if not self._paused:
            await self.resume()
        if self._dead is not None:
            self._dead.start()

    async def pause(self) -> None:
        """Leave the queue group; without another member, messages are lost from now on."""
        self._paused = True
        await self._unsubscribe()

    async def resume(self) -> None:
        """Subscribe again; CannotStart if the server does not let us."""
        self._paused = False
        if self._consumes:
            if self._subscription is None:
                self._subscription = await self._link.subscribe(self._subject, self._group, self._receive)
            await self._link.subscribed()

    def publish(self, output: Output) -> Awaitable[None]:
        """Hand the message to the connection, or to its buffer of 8 MiB while there is none."""
        block = wire_headers.encode(output.headers) if output.headers else b""
        self._link.publish(output.subject, block, self._codec.payload(output))
        return self._client.writable() if self._client.congested else DONE

    def ack(self, message: Message) -> None:
        """Nothing: the broker has forgotten it."""

    def give_back(self, message: Message, delay_s: float) -> None:
        """Nothing: the broker has forgotten it."""

    def terminate(self, message: Message) -> None:
        """Nothing: the broker has forgotten it."""

    async def bury(self, letter: Output) -> None:
        """Have JetStream keep it, where the server has that."""
        if self._dead is None:
            raise PublishError("this stream keeps no dead letters", transient=False)
        await self._dead.bury(letter)

    async def answer_error(self, message: Message, code: int, text: str) -> None:
        """An empty message with the service error headers, if somebody waits for one."""
        if message.reply:
            self._link.publish(message.reply, wire_headers.encode(wire_headers.error_answer(code, text)), b"")

    async def stop(self) -> None:
        """Unsubscribe, take what is on the wire, hand over what is pending."""
        await self._unsubscribe()
        await self._pending.finish()

    async def close(self) -> None:
        """Send what was published, as far as the broker takes it, and disconnect; returns in any state of things."""
        self._pending.abandon()
        if self._dead is not None:
            self._dead.stop()
        subscription, self._subscription = self._subscription, None
        await self._link.close(subscription)

    def abandon(self) -> int:
        """Hand over nothing more."""
        return self._pending.abandon()

    async def lag(self) -> Mapping[int, int]:
        """The server keeps nothing."""
        return {}

    def pending(self) -> int:
        """Messages received and not yet handed over."""
        return len(self._pending)

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._link.unsubscribe(subscription)

    def _receive(self, subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        if block and wire_headers.is_for_another(block, self._whom):
            return
        self._pending.offer((subject, reply, block, data), len(subject) + len(block) + len(data))

    def _message(self, received: Received) -> Message:
        subject, reply, block, data = received
        headers = wire_headers.decode(block) if block else NO_HEADERS
        answer_to = reply.decode("utf-8", "surrogateescape")  # whatever bytes it is made of, the answer goes there
        return self._codec.message(subject.decode("utf-8", "replace"), answer_to, headers, data, block)
