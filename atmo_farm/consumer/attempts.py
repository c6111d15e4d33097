"""One attempt at a message: its sequence is run, and what comes of it is published."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from atmo_farm.capabilities.request import NOTHING, Request
from atmo_farm.consumer.sequence import Result, Sequence
from atmo_farm.directive.model import Handler
from atmo_farm.ipc.arena import Field
from atmo_farm.streams.base import DONE, Message, Output, Receipt, Stream, Target
from atmo_farm.tracing.context import passed_on

PUBLISHED = int(Field.PUBLISHED)
"""A plain number: an enum member costs a lookup on its class for each message."""


class Attempts:
    """Of one handler. `output_id` tells its outputs from those of others that have the same message. `target`: where
    outputs go, if that is not the stream."""

    def __init__(
        self,
        handler: Handler,
        sequence: Sequence,
        stream: Stream,
        slot: memoryview,
        output_id: str,
        target: Target | None = None,
    ):
        self._sequence = sequence
        self._slot = slot
        self._output_id = output_id
        self._send = (target or stream).publish
        self._durable = stream.durable
        self._timeout_s = handler.timeout_s
        answer = handler.respond_to
        self._target = answer.resource if answer else ""
        self._target_key = answer.key.encode() if answer and answer.key else None
        self._target_headers = answer.headers if answer else {}

    def begin(self, message: Message, attempt: int, began: float) -> Awaitable[Receipt | None]:
        """Run the sequence and publish, up to where that waits; DONE if its output is safe by then, a Receipt where
        nothing else is missing. Raises what it fails with."""
        request = Request(
            "STREAM", message.subject, message.id, message.data, message.headers, NOTHING, NOTHING, attempt,
            message.origin, message.number,
        )  # fmt: skip
        ran = self._sequence.begin(request, began + self._timeout_s)
        if type(ran) is Result:
            return self._publish(message, ran)
        return self._rest(message, ran)

    async def _rest(self, message: Message, ran: Awaitable[Result]) -> Receipt | None:
        sent = self._publish(message, await ran)
        if type(sent) is Receipt:
            return sent
        await sent
        return None

    def _publish(self, message: Message, result: Result) -> Awaitable[None]:
        target = self._target or message.reply
        if not target or result.data is None:
            return DONE
        headers = {**self._target_headers, **result.headers} if self._target_headers else result.headers
        return self._publish_on(target, message, result.data, headers)

    def _publish_on(self, target: str, message: Message, data: bytes, headers: Mapping[str, str]) -> Awaitable[None]:
        if message.headers:
            headers = passed_on(message.headers, headers)
        identity = f"{message.id}.{self._output_id}" if self._durable else ""
        key = message.record_key if self._target_key is None else self._target_key
        sent = self._send(Output(target, data, headers, message, identity, key))
        if sent is DONE:
            self._slot[PUBLISHED] += 1
            return DONE
        return sent if type(sent) is Receipt else self.confirm(sent)

    async def confirm(self, sent: Awaitable[None]) -> None:
        """Returns when an output is safe; raises what it fails with."""
        await sent
        self._slot[PUBLISHED] += 1
