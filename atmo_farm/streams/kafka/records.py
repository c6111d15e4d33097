"""Records as messages: where they were, and headers, which are pairs of a name and bytes."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from atmo_farm.streams import grav
from atmo_farm.streams.base import Message, Output
from atmo_farm.streams.codec import NO_HEADERS, Codec
from atmo_farm.streams.headers import REPLAY_FOR
from atmo_farm.streams.kafka.driver import Record
from atmo_farm.streams.kafka.partitions import Partition

OFFSET_BITS = 48
"""Of a message's number; the partition is above."""

Headers = Sequence[tuple[str, bytes | None]]


@attrs.define
class KafkaOrigin:
    """`streams.base.Origin`."""

    partition: Partition
    record: Record

    def field(self, name: str) -> str:
        """`atmo-partition`, `atmo-offset`, `atmo-timestamp` (milliseconds), `atmo-key`, `atmo-null` (`true`)."""
        record = self.record
        if name == "atmo-partition":
            return str(self.partition.number)
        if name == "atmo-offset":
            return str(record.offset)
        if name == "atmo-timestamp":
            return str(record.timestamp)
        if name == "atmo-key":
            return (record.key or b"").decode("utf-8", "replace")
        return "true" if name == "atmo-null" and record.value is None else ""


def message_of(topic: str, partition: Partition, record: Record, codec: Codec) -> Message:
    """Its value taken out of an envelope, if it is in one."""
    value, number, offset = record.value or b"", partition.number, record.offset
    headers = headers_of(record.headers) if record.headers else NO_HEADERS
    name = f"{topic}-{number}-{offset}-{record.timestamp}"
    ledger = (number + 1 << OFFSET_BITS) | offset
    origin = KafkaOrigin(partition, record)
    message = Message(
        topic, value, headers, name, number=ledger, partition=number, record_key=record.key, origin=origin
    )
    if record.headers:
        message.raw_headers = pairs(record.headers)
    if grav.MARK in value:
        opened = codec.message(topic, "", headers, value)
        if opened.envelope:
            message.data, message.envelope, message.raw = opened.data, opened.envelope, value
    return message


def origin_of(message: Message) -> KafkaOrigin:
    """Of a message that `message_of` has made."""
    assert isinstance(message.origin, KafkaOrigin)
    return message.origin


def headers_of(headers: Headers) -> dict[str, str]:
    """Names in lower case; the last value of a repeated name; a null value is an empty one."""
    return {name.lower(): (value or b"").decode("utf-8", "replace") for name, value in headers}


def pairs(headers: Headers) -> tuple[tuple[str, str], ...]:
    """As they came; bytes that are no UTF-8 as lone surrogates."""
    return tuple((name, (value or b"").decode("utf-8", "surrogateescape")) for name, value in headers)


def wire_headers(output: Output) -> list[tuple[str, bytes]]:
    """Those of an output: first what it has of an original, then its own."""
    both = (*output.original, *output.headers.items())
    return [(name, value.encode("utf-8", "surrogateescape")) for name, value in both]


def is_for_another(headers: Headers, own: str) -> bool:
    """Whether a record was replayed for another handler than `own`."""
    return any(name == REPLAY_FOR and (value or b"").decode("utf-8", "replace") != own for name, value in headers)
