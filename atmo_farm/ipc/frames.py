"""The wire between a farm's processes and its data-source proxy.

    frame    0 length u32, little-endian │ 4 msgpack, so many bytes

    of a client    [[op, id, handler, deadline, [argument, …]], …]      requests, those of one turn of its loop
    of the proxy   [[id, status, payload], …]                           replies, in any order

id        the client's own number of the call, below 2⁶³ and never used again; the reply has it too. CANCEL carries that
          of the call
handler   which of the names in the client's hello asks: quotas, log lines and statement comments go by it
deadline  clock.monotonic() seconds, the same clock for every process of the machine; the proxy gives up after it
payload   bytes: of an OK reply the answer as it is, of others a UTF-8 text

The first request of a connection is HELLO, and its reply is OK with the proxy's own version, or REFUSED with a reason.
A request that is longer than MAX_BATCH has a frame of its own. What breaks these rules ends its connection.

A frame for all of a turn is why a call costs so little: msgspec makes and reads it in one go.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

VERSION = 1

MAX_REQUEST = 80 << 20
"""Bytes of the longest frame of a client: a value as large as a function's memory may be, and what is around it."""

MAX_REPLY = 80 << 20

MAX_RESULT = MAX_REPLY - 64
"""Bytes of the largest answer."""

MAX_BATCH = 64 << 10
"""Bytes of the longest frame with more than one request: the proxy reads a frame in one go."""

LENGTH_SIZE = 4

_JOINED = 64 << 10
"""Bytes that are copied behind their length, for one write in place of two."""

_ARRAY_OF_ONE = 0x91


class Op(enum.IntEnum):
    """What a request asks for; its arguments are those of the class of the same name."""

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


_Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Ttl = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]


class Request(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """What comes after the op; each op has a class with the types of its arguments."""

    op: ClassVar[Op]
    number: _Number
    handler: _Number
    deadline: float


class Hello(Request, tag=0):
    """Version, and the handlers' names."""

    op = Op.HELLO
    arguments: tuple[_Number, list[str]]


class Cancel(Request, tag=1):
    """Nothing."""

    op = Op.CANCEL
    arguments: tuple[()]


class State(Request, tag=2):
    """Names of sources."""

    op = Op.STATE
    arguments: tuple[list[str]]


class CacheGet(Request, tag=3):
    """The key."""

    op = Op.CACHE_GET
    arguments: tuple[str]


class CacheSet(Request, tag=4):
    """Key, value, seconds to keep it (0: for ever)."""

    op = Op.CACHE_SET
    arguments: tuple[str, bytes, _Ttl]


class Query(Request, tag=5):
    """The query's name, its variables, the transaction or 0, whether that begins with it."""

    op = Op.QUERY
    arguments: tuple[str, list[bytes], _Number, bool]


class Commit(Request, tag=6):
    """Database and transaction."""

    op = Op.COMMIT
    arguments: tuple[str, _Number]


class Rollback(Request, tag=7):
    """Database and transaction."""

    op = Op.ROLLBACK
    arguments: tuple[str, _Number]


AnyRequest = Hello | Cancel | State | CacheGet | CacheSet | Query | Commit | Rollback

Asked = tuple[int, int, int, float, Sequence[object]]
"""A request as its sender makes it: op, id, handler, deadline, arguments."""

Reply = tuple[int, int, bytes]

encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
"""A value as msgpack."""

_decode_requests = msgspec.msgpack.Decoder(list[AnyRequest]).decode
_decode_replies = msgspec.msgpack.Decoder(list[Reply]).decode


def requests(content: bytes) -> list[AnyRequest]:
    """The requests of a frame; MalformedFrame."""
    if len(content) > MAX_BATCH and content[0] != _ARRAY_OF_ONE:
        raise MalformedFrame(f"several requests in a frame of {len(content)} bytes")
    return _decoded(_decode_requests, content)


def replies(content: bytes) -> list[Reply]:
    """The replies of a frame; MalformedFrame."""
    return _decoded(_decode_replies, content)


def _decoded(decode: Callable[[bytes], list[Any]], content: bytes) -> list[Any]:
    try:
        return decode(content)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise MalformedFrame(str(error)) from error


def frame(content: bytes) -> bytes:
    """A frame with this content."""
    return len(content).to_bytes(LENGTH_SIZE, "little") + content


def write(to: Callable[[bytes], None], content: bytes) -> None:
    """Write a frame with this content, without another copy of a large one."""
    length = len(content).to_bytes(LENGTH_SIZE, "little")
    if len(content) > _JOINED:
        to(length)
        to(content)
    else:
        to(length + content)


def request(op: int, number: int, handler: int, deadline: float, arguments: Sequence[object]) -> bytes:
    """A frame with one request."""
    return frame(encode([(op, number, handler, deadline, arguments)]))


def reply(number: int, status: int, payload: bytes) -> bytes:
    """A frame with one reply."""
    return frame(encode([(number, status, payload)]))


class Splitter:
    """Cuts a byte stream into frames; one that is longer than `longest`, or empty, is malformed."""

    def __init__(self, longest: int):
        self._longest = longest
        self._pieces: list[bytes] = []
        """The beginning of a frame that is not all there."""
        self._missing = 0
        """Bytes that it lacks; while there are any, pieces only pile up: a large frame is joined twice at most."""

    def split(self, data: bytes) -> Iterator[bytes]:
        """The contents of the frames that are whole with these bytes.

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
        at, size = 0, len(data)
        self._missing = 0
        while size - at >= LENGTH_SIZE:
            length = int.from_bytes(data[at : at + LENGTH_SIZE], "little")
            if not 0 < length <= self._longest:
                raise MalformedFrame(f"a frame of {length} bytes")
            end = at + LENGTH_SIZE + length
            if end > size:
                self._missing = end - size
                break
            yield data[at + LENGTH_SIZE : end]
            at = end
        if at < size:
            self._missing = self._missing or LENGTH_SIZE - (size - at)
            self._pieces.append(data[at:])
