"""The wire between a farm's processes and its data-source proxy. Numbers are little-endian.

    request   0 length u32 │ 4 id u32 │ 8 handler u16 │ 10 op u8 │ 11 zero u8 │ 12 deadline f64 │ 20 payload
    reply     0 length u32 │ 4 id u32 │ 8 status u8 │ 9 payload

length    bytes that follow it
id        the client's own number of the call; the reply has it too; CANCEL and HELLO carry it like every other
handler   which of the names in the client's hello asks: quotas, log lines and statement comments go by it
deadline  clock.monotonic() seconds, the same clock for every process of the machine; the proxy gives up after it
payload   a msgpack array of the op's arguments; of an OK reply the answer's bytes as they are, of others a UTF-8 text

The first frame of a connection is HELLO, and its reply is OK with the proxy's own version, or REFUSED with a reason. A
frame that breaks these rules ends its connection.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

VERSION = 1

MAX_REQUEST = 80 << 20
"""Bytes of the longest request: a value as large as a function's memory may be, and its frame."""

MAX_REPLY = 80 << 20

REQUEST = struct.Struct("<IIHBxd")
REPLY = struct.Struct("<IIB")
LENGTH_SIZE = 4


class Op(enum.IntEnum):
    """What a request asks for; its arguments are in ARGUMENTS."""

    HELLO = 0
    """Names the asker's version and handlers."""
    CANCEL = 1
    """The call with this id is not wanted any more; neither it nor this gets a reply."""
    STATE = 2
    """Which of these sources are not ready: the answer is msgpack, {name: why}."""
    CACHE_GET = 3
    """The answer is the value."""
    CACHE_SET = 4
    """The answer is empty."""
    QUERY = 5
    """The answer is JSON."""
    COMMIT = 6
    ROLLBACK = 7


ARGUMENTS: dict[Op, Any] = {
    Op.HELLO: tuple[int, list[str]],  # version, handlers
    Op.CANCEL: tuple[()],
    Op.STATE: tuple[list[str]],  # names of sources
    Op.CACHE_GET: tuple[str],  # key
    Op.CACHE_SET: tuple[str, bytes, int],  # key, value, seconds to keep it (0: for ever)
    Op.QUERY: tuple[str, list[bytes], int, bool],  # name, variables, transaction or 0, whether that begins with it
    Op.COMMIT: tuple[str, int],  # database, transaction
    Op.ROLLBACK: tuple[str, int],
}
"""The types of each op's arguments."""

_decoders = {op: msgspec.msgpack.Decoder(type_) for op, type_ in ARGUMENTS.items()}
_encoder = msgspec.msgpack.Encoder()


class Status(enum.IntEnum):
    """How a call ended."""

    OK = 0
    FAILED = 1
    """It can never go better: the SQL is wrong, the key is not there."""
    TRANSIENT = 2
    """It may go better later: the data source is out of reach, too slow, or had to choose a victim."""
    UNKNOWN = 3
    """A write went out and nobody knows whether it was done."""
    REFUSED = 4
    """The connection's hello was not accepted; the connection ends."""


class MalformedFrame(Exception):
    """The peer does not speak this protocol; the connection must end."""


def request(op: Op, number: int, handler: int, deadline: float, arguments: Sequence[object]) -> bytes:
    """A request as bytes; ValueError when it is longer than MAX_REQUEST."""
    payload = _encoder.encode(arguments)
    if len(payload) > MAX_REQUEST - REQUEST.size:
        raise ValueError(f"{len(payload)} bytes are more than a call may carry ({MAX_REQUEST >> 20} MiB)")
    return REQUEST.pack(REQUEST.size - LENGTH_SIZE + len(payload), number, handler, op, deadline) + payload


def reply(number: int, status: Status, payload: bytes) -> bytes:
    """A reply as bytes."""
    return REPLY.pack(REPLY.size - LENGTH_SIZE + len(payload), number, status) + payload


def arguments(op: int, payload: bytes) -> tuple[Any, ...]:
    """The arguments of a request, of the types of ARGUMENTS; MalformedFrame for anything else."""
    decoder = _decoders.get(op)  # type: ignore[call-overload]
    if decoder is None:
        raise MalformedFrame(f"there is no op {op}")
    try:
        found: tuple[Any, ...] = decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise MalformedFrame(f"{Op(op).name}: {error}") from error
    return found


def encode(value: object) -> bytes:
    """A value as msgpack."""
    return _encoder.encode(value)


class Splitter:
    """Cuts a byte stream into frames: `feed`, then `take` until it gives None.

    `head` is the frame's fixed part; a frame shorter than that, or longer than `longest`, is malformed.
    """

    def __init__(self, head: struct.Struct, longest: int):
        self._head = head
        self._shortest = head.size - LENGTH_SIZE
        self._longest = longest
        self._buffer = b""
        self._at = 0
        self._later: list[bytes] = []
        self._missing = 0
        """Bytes that the next frame lacks; while there are any, chunks only pile up: a large frame is joined once."""

    def feed(self, data: bytes) -> None:
        """More of the stream; after `take` gave None."""
        if self._missing > len(data):
            self._missing -= len(data)
            self._later.append(data)
            return
        if self._at < len(self._buffer) or self._later:
            data = b"".join((self._buffer[self._at :], *self._later, data))
            self._later.clear()
        self._buffer, self._at, self._missing = data, 0, 0

    def take(self) -> tuple[tuple[Any, ...], bytes] | None:
        """The next frame, as its head's numbers and its payload; None while it is not all there."""
        if self._missing:
            return None
        buffer, at = self._buffer, self._at
        if len(buffer) - at < LENGTH_SIZE:
            return None
        length = int.from_bytes(buffer[at : at + LENGTH_SIZE], "little")
        if not self._shortest <= length <= self._longest:
            raise MalformedFrame(f"a frame of {length} bytes")
        end = at + LENGTH_SIZE + length
        if end > len(buffer):
            self._missing = end - len(buffer)
            return None
        self._at = end
        return self._head.unpack_from(buffer, at), buffer[at + self._head.size : end]
