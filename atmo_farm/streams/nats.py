"""NATS core: one connection, one subscription. The broker keeps nothing, so what is lost here is lost, and counted."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

from nats import errors
from nats.aio.subscription import Subscription

from atmo_farm import log
from atmo_farm.directive.model import NatsConnection
from atmo_farm.errors import CannotStart, PublishError
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams import nats_options
from atmo_farm.streams.base import Handle, Message, Output, StreamEvents
from atmo_farm.streams.codec import NO_HEADERS, Codec, error_output
from atmo_farm.streams.nats_client import WireClient
from atmo_farm.streams.pending import MAX_BYTES, MAX_MESSAGES, Pending

logger = logging.getLogger("atmo_farm.streams")

PING_INTERVAL_S = 5.0
"""A dead peer is noticed after three intervals (nats-py's own default would take minutes)."""
UNANSWERED_PINGS = 2
RECONNECT_WAIT_S = 0.5
CONNECT_TIMEOUT_S = 2
FLUSH_TIMEOUT_S = 2.0
"""How long stop and close wait for a broker that may never answer."""

Received = tuple[bytes, bytes, bytes, bytes]


class NatsStream:
    """`streams.base.Stream` for one handler. `group` None: this subscriber gets every message."""

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
        self._client = WireClient(self._options.wants_tls)
        self._pending: Pending[Received] = Pending(self._message, events.dropped, max_pending, max_pending_bytes)
        self._subscription: Subscription | None = None
        self._watch: asyncio.Task[None] | None = None
        self._told = ""
        self._refused = ""
        self._closing = False

    async def open(self) -> None:
        """Connect, for as long as it takes."""
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
        self._told = ""
        self._watch = asyncio.get_running_loop().create_task(self._watch_progress(), name="nats watch")

    async def consume(self, handle: Handle) -> None:
        """Subscribe and hand over; CannotStart if the server does not let us."""
        self._client.after_chunk.append(self._pending.tell_drops)
        self._pending.start(handle)
        self._subscription = await self._client.listen(self._subject, self._group, self._receive)
        while True:
            try:
                await self._client.flush()
                break
            except errors.Error:  # the connection broke on the way; nats-py subscribes again when there is one
                await asyncio.sleep(RECONNECT_WAIT_S)
        if self._refused:
            raise CannotStart(f"{self._where}: {self._refused}: this user may not subscribe to {self._subject}")

    async def publish(self, output: Output) -> None:
        """Hand the message to the connection, or to its buffer of 8 MiB while there is none."""
        client = self._client
        data = self._codec.payload(output)
        block = wire_headers.encode(output.headers) if output.headers else b""
        size = len(block) + len(data)
        if size > client.max_payload:
            raise PublishError(
                f"{size} bytes are more than the server's max_payload of {client.max_payload}", transient=False
            )
        subject = output.subject.encode()
        if block:
            command = b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(block), size, block, data)
        else:
            command = b"PUB %b %d\r\n%b\r\n" % (subject, size, data)
        if client.is_closed or not client.send(command):
            raise PublishError("the broker is out of reach and the buffer for its return is full", transient=True)
        if client.congested:
            await client.writable()

    async def answer_error(self, message: Message, code: int, text: str) -> None:
        """An empty message with the service error headers, if somebody waits for one."""
        if message.reply:
            await self.publish(error_output(message, wire_headers.error_answer(code, text)))

    async def stop(self) -> None:
        """Unsubscribe, take what is on the wire, hand over what is pending."""
        if self._subscription is not None and self._client.is_connected:
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    await self._subscription.unsubscribe()
                    await self._client.flush()
            except (errors.Error, TimeoutError, OSError) as error:
                log.event(logger, logging.DEBUG, "unsubscribing not confirmed", reason=nats_options.reason(error))
        await self._pending.finish()

    async def close(self) -> None:
        """Send what was published, as far as the broker takes it, and disconnect; returns in any state of things."""
        self._closing = True
        self._pending.cancel()
        if self._watch is not None:
            self._watch.cancel()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await asyncio.sleep(0)  # what was published in this turn is written before the flush's ping
                if self._client.is_connected:
                    await self._client.flush()
                await self._client.close()
        except (errors.Error, TimeoutError, OSError):
            self._client.abort()

    def pending(self) -> int:
        """Messages received and not yet handed over."""
        return len(self._pending)

    def _receive(self, subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        self._pending.offer((subject, reply, block, data), len(subject) + len(block) + len(data))

    def _message(self, received: Received) -> Message:
        subject, reply, block, data = received
        headers = wire_headers.decode(block) if block else NO_HEADERS
        return self._codec.message(subject.decode("utf-8", "replace"), reply.decode("utf-8", "replace"), headers, data)

    def _tell_waiting(self, reason: str) -> None:
        """Once for each outage and change of reason."""
        if reason != self._told and not self._closing:
            self._told = reason
            self._events.waiting(self._where, reason)

    async def _on_error(self, error: Exception) -> None:
        reason = nats_options.reason(error, self._options.secrets)
        if not self._client.is_connected:
            self._tell_waiting(reason)
        elif "permissions violation for subscription" in reason.lower():
            self._refused = reason
        else:
            log.event(logger, logging.WARNING, "NATS error", connection=self._where, reason=reason)

    async def _on_disconnect(self) -> None:
        last: Any = self._client.last_error
        self._tell_waiting(nats_options.reason(last, self._options.secrets))

    async def _on_reconnect(self) -> None:
        self._told = ""
        self._events.connected()

    async def _on_close(self) -> None:
        if not self._closing:
            self._events.closed(nats_options.reason(self._client.last_error, self._options.secrets))

    async def _watch_progress(self) -> None:
        """Trust no state: a server that answers pings makes `heard` grow, and a reconnection has a task that runs."""
        client = self._client
        while True:
            heard = client.heard
            await asyncio.sleep(self._ping_interval_s * (UNANSWERED_PINGS + 1))
            if client.is_connected and client.heard == heard:
                await client._process_op_err(errors.StaleConnectionError())
            elif client.is_reconnecting:
                task = client._reconnection_task
                if task is None or task.done():
                    self._events.closed("the client gave up reconnecting")
                    return
