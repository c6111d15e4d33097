"""The life of a stream's connection to NATS: made, watched, lost, found again, ended; and what is sent over it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from nats import errors
from nats.aio.subscription import Subscription

from atmo_farm import log
from atmo_farm.directive.connections import NatsConnection
from atmo_farm.errors import CannotStart, PublishError
from atmo_farm.streams import nats_options
from atmo_farm.streams.base import StreamEvents
from atmo_farm.streams.nats_client import WireClient
from atmo_farm.streams.nats_parser import Sink

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
PUBLISH_REFUSED = re.compile(r'permissions violation for publish to "(.*)"')

WARNINGS_PER_S = 1
"""A publish that is not permitted is an error line of the server for each message."""


class NatsLink:
    """One connection. Whoever has it appends to `lost`, `back` and `publish_refused` what is to be called then."""

    def __init__(
        self,
        connection: NatsConnection,
        client_name: str,
        events: StreamEvents,
        ping_interval_s: float = PING_INTERVAL_S,
    ):
        self._options = nats_options.options(connection, client_name)
        self.where = f"nats {connection.name}"
        self.client = WireClient(self._options.wants_tls)
        self.lost: list[Callable[[], None]] = []
        """Called when the connection breaks."""
        self.back: list[Callable[[], None]] = []
        """Called when there is one again, with all subscriptions."""
        self.publish_refused: list[Callable[[str], None]] = []
        """Called with the subject, in lower case, that the server does not let us publish on."""
        self._events = events
        self._ping_interval_s = ping_interval_s
        self._watch: asyncio.Task[None] | None = None
        self._warnings = log.RateLimit(WARNINGS_PER_S, burst=10)
        self._told: set[str] = set()
        """The reasons of this outage: two servers that fail in turn, each in its own way, are two lines."""
        self._subject = ""
        self._subscribed = False
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
            self.client.abort()
            raise
        self._told.clear()
        self._watch = asyncio.get_running_loop().create_task(self._watch_progress(), name="nats watch")

    async def subscribe(self, subject: str, group: str, sink: Sink) -> Subscription:
        """Ask the server; `subscribed` tells what it says."""
        self._subject, self._subscribed, self._refused = subject, False, ""
        return await self.client.listen(subject, group, sink)

    async def subscribed(self) -> None:
        """Returns when the server has confirmed the subscription; CannotStart if it does not let us."""
        while True:
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    await self.client.confirm()
                break
            except (errors.Error, TimeoutError):  # the connection broke; nats-py subscribes again when there is one
                await asyncio.sleep(RECONNECT_WAIT_S)
        if self._refused:
            raise CannotStart(f"{self.where}: {self._refused}")
        self._subscribed = True

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Returns when none of its messages comes any more and all that was published is sent, as far as the broker
        confirms that; unsubscribed in any case."""
        try:
            await self._finish(subscription)
        except (errors.Error, OSError) as error:
            log.event(logger, logging.DEBUG, "unsubscribing not confirmed", reason=self.reason(error))

    async def _finish(self, subscription: Subscription | None) -> None:
        async with asyncio.timeout(FLUSH_TIMEOUT_S):
            if subscription is not None:
                await subscription.unsubscribe()  # without a connection: not subscribed again when there is one
            await self.client.confirm()

    async def close(self, subscription: Subscription | None) -> None:
        """Send what was published, as far as the broker takes it, and disconnect; returns in any state of things."""
        self._ended = True
        if self._watch is not None:
            self._watch.cancel()
        try:
            await self._finish(subscription)
        except (errors.Error, OSError) as error:
            unsent = self.client.unsent()
            if unsent:
                log.event(
                    logger,
                    logging.WARNING,
                    "outputs not sent",
                    connection=self.where,
                    bytes=unsent,
                    reason=self.reason(error),
                )
        self.client.abort()

    def publish(self, subject: str, block: bytes, data: bytes, reply: bytes = b"") -> None:
        """Hand it to the connection, or to its buffer of 8 MiB while there is none; `block` is the headers as they go
        over the wire. PublishError if it cannot be sent, now or ever."""
        client = self.client
        size = len(block) + len(data)
        if size > client.max_payload:
            raise PublishError(
                f"{size} bytes are more than the server's max_payload of {client.max_payload}", transient=False
            )
        target = subject.encode("utf-8", "surrogateescape")
        if reply:
            target += b" " + reply
        if block:
            if not client.takes_headers:
                raise PublishError("the server takes no messages with headers (no_header_support)", transient=False)
            command = b"HPUB %b %d %d\r\n%b%b\r\n" % (target, len(block), size, block, data)
        else:
            command = b"PUB %b %d\r\n%b\r\n" % (target, size, data)
        if client.is_closed or not client.send(command):
            raise PublishError("the broker is out of reach and the buffer for its return is full", transient=True)

    def waiting(self, reason: str) -> None:
        """Tell it, once in each outage."""
        if reason not in self._told and not self._ended:
            self._told.add(reason)
            self._events.waiting(self.where, reason)

    def connected(self) -> None:
        """Tell that the outage is over."""
        self._told.clear()
        if not self._ended:
            self._events.connected()

    def end(self, reason: str) -> None:
        """This process cannot go on; a new one begins from the start."""
        if not self._ended:
            self._ended = True
            self._events.closed(reason)

    def reason(self, error: BaseException | None) -> str:
        """In words for the log, without secrets."""
        return nats_options.reason(error, self._options.secrets)

    async def _connect(self) -> None:
        await self.client.connect(
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

    async def _on_error(self, error: Exception) -> None:
        reason, words = self.reason(error), str(error).lower()
        if not self.client.is_connected:
            self.waiting(reason)
        elif SUBSCRIPTION_REFUSED in words:
            self._refused = f"{reason}: this user may not subscribe to {self._subject}"
            if self._subscribed:
                self.end(self._refused)
        elif not isinstance(error, errors.StaleConnectionError):  # `_on_disconnect` tells that
            refused = PUBLISH_REFUSED.search(words)
            for told in self.publish_refused if refused else ():
                told(refused[1] if refused else "")
            if self._warnings.allow():
                dropped = self._warnings.take_dropped() or None
                log.event(
                    logger, logging.WARNING, "NATS error", connection=self.where, reason=reason, lines_dropped=dropped
                )

    async def _on_disconnect(self) -> None:
        self.waiting(self.reason(self.client.cause))
        for told in self.lost:
            told()

    async def _on_reconnect(self) -> None:
        for told in self.back:
            told()

    async def _on_close(self) -> None:
        self.end(self.reason(self.client.last_error or self.client.cause))

    async def _watch_progress(self) -> None:
        while True:
            heard = self.client.heard
            await asyncio.sleep(self._ping_interval_s * (UNANSWERED_PINGS + 1))
            try:
                await self.client.mind_progress(heard)
            except errors.ConnectionClosedError:
                self.end("the client gave up reconnecting")
                return
