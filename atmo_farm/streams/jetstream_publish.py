"""Outputs that are safe when their futures are done: into the stream that keeps their subject, or by core NATS.

All publishes of a turn of the loop go out in one write. How many are out at once is bounded by `maxInFlight`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Literal

from atmo_farm import log
from atmo_farm.errors import PublishError
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams.base import Output
from atmo_farm.streams.codec import Codec
from atmo_farm.streams.headers import MESSAGE_ID
from atmo_farm.streams.jetstream_acks import Acknowledged, Confirmed
from atmo_farm.streams.nats_link import NatsLink
from atmo_farm.streams.nats_requests import NO_JETSTREAM, JetStreamError, NotAllowedError, Requests

logger = logging.getLogger("atmo_farm.streams")

LOOK_AGAIN_S = 60.0
"""How long it is believed that no stream keeps a subject."""


class Publisher:
    """Those of one handler. `output` is the Directive's: empty: into the stream that keeps the subject, if there is.

    `patient`: an output waits while there is no connection. Of a handler with an order: it tries again in its place,
    and an outage must not use its attempts up.
    """

    def __init__(
        self,
        link: NatsLink,
        requests: Requests,
        codec: Codec,
        handler: str,
        output: Literal["", "stream", "core"],
        *,
        patient: bool,
    ):
        self._client = link.client
        self._requests = requests
        self._codec = codec
        self._handler = handler
        self._output = output
        self._patient = patient
        self._loop = asyncio.get_running_loop()
        self._acknowledged = Acknowledged(link, self._look_again)
        self._confirmed = Confirmed(link)
        self._streams: dict[str, str] = {}
        """Subject → the stream that keeps it; empty: none."""
        self._look_at: dict[str, float] = {}
        """When to look again, of those that none keeps."""
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._for_connection: list[asyncio.Future[None]] = []
        link.back.append(self._back)

    async def open(self) -> None:
        """On a connection that stands."""
        await self._acknowledged.open()

    async def find(self, subject: str) -> None:
        """Learn whether a stream keeps it; none is said in the log. PublishError: not known for now."""
        if self._output:
            self._streams[subject] = self._output if self._output == "stream" else ""
            return
        try:
            names = (await self._requests.jetstream("STREAM.NAMES", {"subject": subject})).get("streams")
        except JetStreamError as error:
            if error.code != NO_JETSTREAM or self._streams.get(subject):
                raise PublishError(f"JetStream: {error}", transient=True) from error
            names = None
        except NotAllowedError:
            names = None
        found = str(names[0]) if names else ""
        if not found:
            self._look_at[subject] = self._loop.time() + LOOK_AGAIN_S
        if self._streams.get(subject) != found:
            self._tell(subject, found)
        self._streams[subject] = found

    def publish(self, output: Output) -> Awaitable[None]:
        """Done when it is safe; PublishError at once or then."""
        if not self._client.is_connected:
            if self._patient:
                return self._publish_later(output)
            raise PublishError("the broker is out of reach", transient=True)
        subject = output.subject
        stream = self._streams.get(subject)
        if stream is None:
            return self._find_and_publish(output)
        data = self._codec.payload(output)
        if stream:
            return self._acknowledged.publish(subject, _block(output), data)
        if self._look_at.get(subject, self._loop.time()) < self._loop.time():
            self._look_again(subject)
        return self._confirmed.publish(subject, _block(output), data)

    def stop(self) -> None:
        """Nothing waits for a connection any more."""
        self._patient = False
        self._back()

    def close(self) -> None:
        """Whoever still waits is told that nobody knows."""
        self.stop()
        for look in self._looks.values():
            look.cancel()
        self._acknowledged.close()
        self._confirmed.close()

    async def _find_and_publish(self, output: Output) -> None:
        await self.find(output.subject)
        await self.publish(output)

    async def _publish_later(self, output: Output) -> None:
        connected = self._loop.create_future()
        self._for_connection.append(connected)
        await connected
        await self.publish(output)

    def _look_again(self, subject: str) -> None:
        """Beside the messages, once at a time."""
        self._look_at.pop(subject, None)
        if subject not in self._looks and not self._output:
            self._looks[subject] = look = self._loop.create_task(self._look(subject), name="output stream")
            look.add_done_callback(lambda _: self._looks.pop(subject))

    async def _look(self, subject: str) -> None:
        try:
            await self.find(subject)
        except PublishError as error:
            log.event(logger, logging.DEBUG, "output stream not known", subject=subject, reason=str(error))

    def _tell(self, subject: str, stream: str) -> None:
        if stream:
            level, text = logging.INFO, "outputs go into a stream"
        else:
            level = logging.WARNING
            text = "no known stream keeps the outputs: they go out by core NATS, to whoever is there"
        log.event(logger, level, text, handler=self._handler, subject=subject, stream=stream or None)

    def _back(self) -> None:
        """There is a connection again, or nobody waits for one; what no stream kept may be kept now."""
        self._look_at = dict.fromkeys(self._look_at, 0.0)
        waiting, self._for_connection = self._for_connection, []
        for connected in waiting:
            if not connected.done():
                connected.set_result(None)


def _block(output: Output) -> bytes:
    """The headers with the id by which a stream knows whether it has it already; the guest's own id wins."""
    headers = output.headers
    if not output.id:
        return wire_headers.encode(headers) if headers else b""
    if not headers:
        return f"NATS/1.0\r\nNats-Msg-Id: {output.id}\r\n\r\n".encode()
    spelled = {"Nats-Msg-Id" if name.lower() == MESSAGE_ID else name: value for name, value in headers.items()}
    return wire_headers.encode({"Nats-Msg-Id": output.id, **spelled})
