"""Between what is on the wire and what a handler sees: ids, Grav envelopes, subjects. The same for every stream."""

from __future__ import annotations

from typing import Literal

from atmo_farm.errors import PublishError
from atmo_farm.streams import grav, subjects
from atmo_farm.streams.base import Message, Output
from atmo_farm.streams.headers import MESSAGE_ID
from atmo_farm.streams.ids import new_ids

_BRACE = ord("{")

NO_HEADERS: dict[str, str] = {}
"""Shared by all messages without headers; nobody changes a message's headers in place."""


class Codec:
    """For one stream; `envelope` as the Directive says it. Made in the process that uses it."""

    def __init__(self, envelope: Literal["auto", "raw", "grav"]):
        self._unwraps = envelope != "raw"
        self._wraps_all = envelope == "grav"
        self._new_id = new_ids()
        self._legal: str | None = None
        """The last subject that was looked at: a handler has only one, beside reply subjects."""

    def message(
        self, subject: str, reply: str, headers: dict[str, str], data: bytes, block: bytes = b"", identity: str = ""
    ) -> Message:
        """A received message, taken out of its envelope if it came in one; header names in lower case. `identity` is
        the broker's own id for it, if it has one."""
        uuid, raw = "", None
        if self._unwraps and _BRACE in data and data.find(grav.MARK) > 0:  # `MARK in data` takes twice as long
            envelope = grav.unwrap(data)
            if envelope is not None:
                raw, uuid, data = data, envelope.uuid, envelope.data
        identity = identity or headers.get(MESSAGE_ID) or self._new_id()
        return Message(subject, data, headers, identity, reply, uuid, raw, block)

    def payload(self, output: Output) -> bytes:
        """What goes out: in an envelope if what it answers came in one. PublishError for an illegal subject."""
        cause = output.cause
        subject = output.subject
        if subject != self._legal and (cause is None or subject != cause.reply):  # that came off the wire: it is legal
            problem = subjects.problem(subject)
            if problem:
                raise PublishError(f"cannot publish on {subject[:100]!r}: {problem}", transient=False)
            self._legal = subject
        response_to = cause.envelope if cause is not None else ""
        if response_to or self._wraps_all:
            return grav.wrap(output.data, output.subject, parent_id=response_to, response_to=response_to)
        return output.data
