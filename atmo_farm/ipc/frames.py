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
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

VERSION = 1

MAX_REQUEST = 80 << 20
"""Bytes of the longest request: a value as large as a function's memory may be, and its frame."""

MAX_REPLY = 80 << 20

REQUEST = struct.Struct("<IIHBxd")
REPLY = struct.Struct("<IIB")
LENGTH_SIZE = 4

MAX_RESULT = MAX_REPLY - REPLY.size
"""Bytes of the largest answer."""

_MAX_PAYLOAD = MAX_REQUEST - REQUEST.size
_REQUEST_REST = REQUEST.size - LENGTH_SIZE
_REPLY_REST = REPLY.size - LENGTH_SIZE
_pack_request, _pack_reply = REQUEST.pack, REPLY.pack


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


_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_Ttl = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]

ARGUMENTS: dict[Op, Any] = {
    Op.HELLO: tuple[_Number, list[str]],  # version, handlers
    Op.CANCEL: tuple[()],
    Op.STATE: tuple[list[str]],  # names of sources
    Op.CACHE_GET: tuple[str],  # key
    Op.CACHE_SET: tuple[str, bytes, _Ttl],  # key, value, seconds to keep it (0: for ever)
    Op.QUERY: tuple[str, list[bytes], _Number, bool],  # name, variables, transaction or 0, whether that begins with it
    Op.COMMIT: tuple[str, _Number],  # database, transaction
    Op.ROLLBACK: tuple[str, _Number],
}
"""The types of each op's arguments."""

_decode = [msgspec.msgpack.Decoder(ARGUMENTS[op]).decode for op in Op]
_encode = msgspec.msgpack.Encoder().encode


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
    payload = _encode(arguments)
    if len(payload) > _MAX_PAYLOAD:
        raise ValueError(f"{len(payload)} bytes are more than a call may carry ({MAX_REQUEST >> 20} MiB)")
    return _pack_request(_REQUEST_REST + len(payload), number, handler, op, deadline) + payload


def reply(number: int, status: int, payload: bytes) -> bytes:
    """A reply as bytes; of a payload longer than MAX_REPLY takes, a failure that says so."""
    if len(payload) > MAX_RESULT:
        status = Status.FAILED
        payload = f"the answer of {len(payload)} bytes is larger than {MAX_REPLY >> 20} MiB".encode()
    return _pack_reply(_REPLY_REST + len(payload), number, status) + payload


def arguments(op: int, payload: bytes) -> tuple[Any, ...]:
    """The arguments of a request, of the types of ARGUMENTS; MalformedFrame for anything else."""
    try:
        return _decode[op](payload)  # type: ignore[no-any-return]
    except IndexError:
        raise MalformedFrame(f"there is no op {op}") from None
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise MalformedFrame(f"{Op(op).name}: {error}") from error


def encode(value: object) -> bytes:
    """A value as msgpack."""
    return _encode(value)


class Splitter:
    """Cuts a byte stream into frames.

    `head` is the frame's fixed part, which begins with its length; a frame shorter than that, or longer than `longest`,
    is malformed.
    """

    def __init__(self, head: struct.Struct, longest: int):
        self._head = head
        self._longest = longest
        self._pieces: list[bytes] = []
        """The beginning of a frame that is not all there."""
        self._missing = 0
        """Bytes that it lacks; while there are any, pieces only pile up: a large frame is joined twice at most."""

    def split(self, data: bytes) -> Iterator[tuple[tuple[Any, ...], bytes]]:
        """The frames that are whole with these bytes, each as its head's numbers and its payload.

        Take them all before the next call. MalformedFrame comes in the place of the frame that is.
        """
        if self._missing > len(data):
            self._missing -= len(data)
            self._pieces.append(data)
            return
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces.clear()
        unpack, head, longest = self._head.unpack_from, self._head.size, self._longest
        shortest, size, at = head - LENGTH_SIZE, len(data), 0
        self._missing = 0
        while size - at >= head:
            numbers = unpack(data, at)
            length = numbers[0]
            end = at + LENGTH_SIZE + length
            if not shortest <= length <= longest:
                raise MalformedFrame(f"a frame of {length} bytes")
            if end > size:
                break
            yield numbers, data[at + head : end]
            at = end
        left = size - at
        if left >= LENGTH_SIZE:
            length = int.from_bytes(data[at : at + LENGTH_SIZE], "little")
            if not shortest <= length <= longest:
                raise MalformedFrame(f"a frame of {length} bytes")
            self._missing = LENGTH_SIZE + length - left
        elif left:
            self._missing = LENGTH_SIZE - left
        if left:
            self._pieces.append(data[at:])
