"""NATS as the place of outputs whose messages come from elsewhere.

They go into the stream that keeps their subject, and are done when that has acknowledged them; where none does, when
the server has them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from atmo_farm import log
from atmo_farm.directive.connections import NatsConnection
from atmo_farm.directive.model import Handler
from atmo_farm.errors import PublishError
from atmo_farm.streams.base import Output, StreamEvents
from atmo_farm.streams.codec import Codec
from atmo_farm.streams.jetstream_publish import Publisher
from atmo_farm.streams.nats_link import NatsLink
from atmo_farm.streams.nats_requests import Requests

logger = logging.getLogger("atmo_farm.streams")


class NatsTarget:
    """`streams.base.Target` for one handler."""

    def __init__(self, connection: NatsConnection, handler: Handler, *, client_name: str, events: StreamEvents):
        assert handler.respond_to is not None
        self._subject = handler.respond_to.resource
        self._link = NatsLink(connection, client_name, events)
        requests = Requests(self._link.client)
        self._link.publish_refused.append(requests.refused)
        patient = handler.ordering != "none"
        codec = Codec(handler.envelope)
        self._publisher = Publisher(self._link, requests, codec, handler.name, handler.output, patient=patient)
        self._link.back.append(self._link.connected)

    async def open(self) -> None:
        """Connect, for as long as it takes."""
        await self._link.open()
        await self._publisher.open()
        try:
            await self._publisher.find(self._subject)
        except PublishError as error:  # the first output asks again
            log.event(logger, logging.WARNING, "output stream not known yet", subject=self._subject, reason=str(error))

    def publish(self, output: Output) -> Awaitable[None]:
        """Done when a stream has acknowledged it, or the server has it where there is none."""
        return self._publisher.publish(output)

    async def stop(self) -> None:
        """Nothing waits for a connection any more."""
        self._publisher.stop()

    async def close(self) -> None:
        """Send what was published, as far as the broker takes it, and disconnect."""
        await self._link.close(None)
        self._publisher.close()
