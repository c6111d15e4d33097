"""NATS core: one connection, one subscription. The broker keeps nothing, so what is lost here is lost, and counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Literal

from nats import errors
from nats.aio.subscription import Subscription

from atmo_farm import log
from atmo_farm.directive.model import NatsConnection
from atmo_farm.errors import CannotStart, PublishError
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams import nats_options
from atmo_farm.streams.base import Handle, Message, Output, StreamEvents
from atmo_farm.streams.codec import NO_HEADERS, Codec
from atmo_farm.streams.nats_client import WireClient
from atmo_farm.streams.pending import MAX_BYTES, MAX_MESSAGES, Pending

logger = logging.getLogger("atmo_farm.streams")

PING_INTERVAL_S = 5.0
"""A dead peer is noticed after three intervals (nats-py's own default would take minutes)."""
UNANSWERED_PINGS = 2
RECONNECT_WAIT_S = 0.5
CONNECT_TIMEOUT_S = 2
CANCEL_AGAIN_S = 0.1
FLUSH_TIMEOUT_S = 2.0
"""How long stop and close wait for a broker that may never answer."""

SUBSCRIPTION_REFUSED = "permissions violation for subscription"
"""How the server's words begin, in lower case, when the user may not have this subscription (any more)."""

WARNINGS_PER_S = 1
"""A publish that is not permitted is an error line of the server for each message."""

Received = tuple[bytes, bytes, bytes, bytes]


class NatsStream:
    """`streams.base.Stream` for one handler. `group` None: this subscriber gets every message."""

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
        ping_interval_s: float = PING_INTERVAL_S,
        max_pending: int = MAX_MESSAGES,
        max_pending_bytes: int = MAX_BYTES,
    ):
        self._options = nats_options.options(connection, client_name)
        self._where = f"nats {connection.name}"
        self._subject = subject
        self._group = group or ""
        self._events = events
        self._ping_interval_s = ping_interval_s
        self._codec = Codec(envelope)
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done.set_result(None)
        self._client = WireClient(self._options.wants_tls)
        self._pending: Pending[Received] = Pending(self._message, events.dropped, max_pending, max_pending_bytes)
        self._subscription: Subscription | None = None
        self._subscribed = False
        self._watch: asyncio.Task[None] | None = None
        self._warnings = log.RateLimit(WARNINGS_PER_S, burst=10)
        self._told: set[str] = set()
        """The reasons of this outage: two servers that fail in turn, each in its own way, are two lines."""
        self._refused = ""
        self._ended = False

    async def open(self) -> None:
        """Connect, for as long as it takes."""
        connecting = asyncio.ensure_future(self._connect())
        try:
            await asyncio.wait((connecting,))
            connecting.result()
        except BaseException:
            while not connecting.done():  # again: a cancellation can get lost in asyncio.wait_for
                connecting.cancel()
                await asyncio.wait((connecting,), timeout=CANCEL_AGAIN_S)
            self._client.abort()
            raise
        self._told.clear()
        self._watch = asyncio.get_running_loop().create_task(self._watch_progress(), name="nats watch")

    async def consume(self, handle: Handle) -> None:
        """Subscribe and hand over; CannotStart if the server does not let us."""
        self._client.after_chunk.append(self._pending.tell_drops)
        self._pending.start(handle)
        self._subscription = await self._client.listen(self._subject, self._group, self._receive)
        while True:
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    await self._client.confirm()
                break
            except (errors.Error, TimeoutError):  # the connection broke; nats-py subscribes again when there is one
                await asyncio.sleep(RECONNECT_WAIT_S)
        if self._refused:
            raise CannotStart(f"{self._where}: {self._refused}")
        self._subscribed = True

    def publish(self, output: Output) -> Awaitable[None]:
        """Hand the message to the connection, or to its buffer of 8 MiB while there is none."""
        self._send(output.subject, output.headers, self._codec.payload(output))
        return self._client.writable() if self._client.congested else self._done

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
            self._send(message.reply, wire_headers.error_answer(code, text), b"")

    async def stop(self) -> None:
        """Unsubscribe, take what is on the wire, hand over what is pending."""
        if self._subscription is not None:
            try:
                await self._unsubscribe()
            except (errors.Error, OSError) as error:
                reason = nats_options.reason(error, self._options.secrets)
                log.event(logger, logging.DEBUG, "unsubscribing not confirmed", reason=reason)
        await self._pending.finish()

    async def close(self) -> None:
        """Send what was published, as far as the broker takes it, and disconnect; returns in any state of things."""
        self._ended = True
        self._pending.abandon()
        if self._watch is not None:
            self._watch.cancel()
        try:
            await self._unsubscribe()
        except (errors.Error, OSError) as error:
            unsent = self._client.unsent()
            if unsent:
                reason = nats_options.reason(error, self._options.secrets)
                log.event(
                    logger, logging.WARNING, "outputs not sent", connection=self._where, bytes=unsent, reason=reason
                )
        self._client.abort()

    def abandon(self) -> int:
        """Hand over nothing more."""
        return self._pending.abandon()

    def pending(self) -> int:
        """Messages received and not yet handed over."""
        return len(self._pending)

    async def _connect(self) -> None:
        await self._client.connect(
            **self._options.arguments,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # a float works
            connect_timeout=CONNECT_TIMEOUT_S,
            ping_interval=self._ping_interval_s,  # type: ignore[arg-type]
            max_outstanding_pings=UNANSWERED_PINGS,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            closed_cb=self._on_close,
        )

    async def _unsubscribe(self) -> None:
        """Returns when no message comes any more and all outputs are sent; else raises, unsubscribed in any case."""
        async with asyncio.timeout(FLUSH_TIMEOUT_S):
            if self._subscription is not None:
                subscription, self._subscription = self._subscription, None
                await subscription.unsubscribe()  # without a connection: not subscribed again when there is one
            await self._client.confirm()

    def _send(self, subject: str, headers: Mapping[str, str], data: bytes) -> None:
        client = self._client
        block = wire_headers.encode(headers) if headers else b""
        size = len(block) + len(data)
        if size > client.max_payload:
            raise PublishError(
                f"{size} bytes are more than the server's max_payload of {client.max_payload}", transient=False
            )
        target = subject.encode("utf-8", "surrogateescape")
        if block:
            if not client.takes_headers:
                raise PublishError("the server takes no messages with headers (no_header_support)", transient=False)
            command = b"HPUB %b %d %d\r\n%b%b\r\n" % (target, len(block), size, block, data)
        else:
            command = b"PUB %b %d\r\n%b\r\n" % (target, size, data)
        if client.is_closed or not client.send(command):
            raise PublishError("the broker is out of reach and the buffer for its return is full", transient=True)

    def _receive(self, subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        self._pending.offer((subject, reply, block, data), len(subject) + len(block) + len(data))

    def _message(self, received: Received) -> Message:
        subject, reply, block, data = received
        headers = wire_headers.decode(block) if block else NO_HEADERS
        answer_to = reply.decode("utf-8", "surrogateescape")  # whatever bytes it is made of, the answer goes there
        return self._codec.message(subject.decode("utf-8", "replace"), answer_to, headers, data)

    def _tell_waiting(self, reason: str) -> None:
        if reason not in self._told and not self._ended:
            self._told.add(reason)
            self._events.waiting(self._where, reason)

    def _end(self, reason: str) -> None:
        """This process cannot go on; a new one begins from the start."""
        if not self._ended:
            self._ended = True
            self._events.closed(reason)

    async def _on_error(self, error: Exception) -> None:
        reason = nats_options.reason(error, self._options.secrets)
        if not self._client.is_connected:
            self._tell_waiting(reason)
        elif SUBSCRIPTION_REFUSED in str(error).lower():
            self._refused = f"{reason}: this user may not subscribe to {self._subject}"
            if self._subscribed:
                self._end(self._refused)
        elif not isinstance(error, errors.StaleConnectionError) and self._warnings.allow():  # `_on_disconnect` tells it
            dropped = self._warnings.take_dropped() or None
            log.event(
                logger, logging.WARNING, "NATS error", connection=self._where, reason=reason, lines_dropped=dropped
            )

    async def _on_disconnect(self) -> None:
        self._tell_waiting(nats_options.reason(self._client.cause, self._options.secrets))

    async def _on_reconnect(self) -> None:
        self._told.clear()
        if not self._ended:
            self._events.connected()

    async def _on_close(self) -> None:
        self._end(nats_options.reason(self._client.last_error or self._client.cause, self._options.secrets))

    async def _watch_progress(self) -> None:
        while True:
            heard = self._client.heard
            await asyncio.sleep(self._ping_interval_s * (UNANSWERED_PINGS + 1))
            try:
                await self._client.mind_progress(heard)
            except errors.ConnectionClosedError:
                self._end("the client gave up reconnecting")
                return
