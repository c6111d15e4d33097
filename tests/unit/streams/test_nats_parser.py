"""The parser: the same messages however the bytes are cut, and an error, never a hang, for what is no NATS."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nats import errors
from nats.protocol.parser import AWAITING_MSG_PAYLOAD

from atmo_farm.streams.nats_parser import LONGEST_LINE, WireParser
from tests.streams import run

pytestmark = pytest.mark.timeout(60)


class Recorder:
    """Stands for the client: notes what the parser tells it, in order."""

    def __init__(self, sids: Sequence[bytes] = (b"1", b"23")):
        self.heard = 0
        self.got: list[tuple[Any, ...]] = []
        self.chunks_ended: list[int] = []
        self.after_chunk = [lambda: self.chunks_ended.append(len(self.got))]
        self.sinks = {sid: self._sink(sid) for sid in sids}
        self.parser = WireParser(self)

    def _sink(self, sid: bytes) -> Any:
        return lambda subject, reply, block, data: self.got.append(("MSG", sid, subject, reply, block, data))

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.got.append(("MSG", b"%d" % sid, subject, reply, headers or b"", data))

    async def _process_ping(self) -> None:
        self.got.append(("PING",))

    async def _process_pong(self) -> None:
        self.got.append(("PONG",))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.got.append(("INFO", info["a"]))

    async def _process_err(self, text: str) -> None:
        self.got.append(("-ERR", text))


def parse(*chunks: bytes) -> Recorder:
    """What comes of these chunks."""

    async def body() -> Recorder:
        recorder = Recorder()
        for chunk in chunks:
            await recorder.parser.parse(chunk)
        return recorder

    recorder: Recorder = drive(body())
    return recorder


def drive(coroutine: Any) -> Any:
    """Run what never waits, without a loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the parser waited for something")


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The bytes in pieces, cut at these places (modulo the length)."""
    at = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(at)]


Item = tuple[bytes, tuple[Any, ...]]
"""Bytes on the wire, and what they mean."""

TOKENS = st.text("abcdefghij.-_$ä", min_size=1, max_size=20).map(str.encode)
SIDS = st.sampled_from([b"1", b"23", b"456"])
BODIES = st.one_of(
    st.binary(max_size=60), st.sampled_from([b"\r\n", b"MSG a 1 5\r\nhello\r\n", b"PING\r\n", b"x" * 5000])
)
BLANKS = st.sampled_from([b" ", b"  ", b"\t"])


@st.composite
def messages(draw: st.DrawFn) -> Item:
    subject, sid, reply, data = draw(TOKENS), draw(SIDS), draw(st.one_of(st.just(b""), TOKENS)), draw(BODIES)
    block = draw(st.one_of(st.just(b""), BODIES.map(lambda body: b"NATS/1.0\r\n" + body + b"\r\n\r\n")))
    sizes = [b"%d" % len(block)] if block else []
    words = [b"HMSG" if block else b"MSG", subject, sid, *([reply] if reply else []), *sizes]
    line = draw(BLANKS).join([*words, b"%d" % (len(block) + len(data))])
    return line + b"\r\n" + block + data + b"\r\n", ("MSG", sid, subject, reply, block, data)


CONTROL = st.sampled_from([
    (b"PING\r\n", ("PING",)),
    (b"PONG\r\n", ("PONG",)),
    (b"+OK\r\n", ()),
    (b'INFO {"a":1}\r\n', ("INFO", 1)),
    (b'INFO {"a":"' + b"x" * 9000 + b'"} \r\n', ("INFO", "x" * 9000)),
    (b"-ERR 'Slow Consumer'\r\n", ("-ERR", "'slow consumer'")),
])  # fmt: skip
STREAMS = st.lists(st.one_of(messages(), CONTROL), max_size=8)
CUTS = st.lists(st.integers(0, 1 << 16), max_size=20)


@given(STREAMS, CUTS)
@settings(max_examples=300)
def test_any_cutting_gives_the_same(items: list[Item], places: list[int]) -> None:
    """MSG, HMSG, PING, PONG, INFO, +OK and -ERR in any order, cut anywhere: each once, whole, in order."""
    wanted = [meaning for _, meaning in items if meaning]
    recorder = parse(*cut(b"".join(data for data, _ in items), places))
    assert recorder.got == wanted
    assert not recorder.parser.buf


@given(st.lists(messages(), min_size=1, max_size=4))
def test_byte_by_byte(items: list[Item]) -> None:
    """The smallest pieces there are."""
    data = b"".join(data for data, _ in items)
    assert parse(*(data[at : at + 1] for at in range(len(data)))).got == [meaning for _, meaning in items]


def test_a_large_message_in_small_pieces() -> None:
    """8 MiB in the client's reads of 32 KiB: about linear work."""
    body = bytes(range(256)) * (8 << 12)
    data = b"MSG a 1 %d\r\n%b\r\nMSG a 1 2\r\nok\r\n" % (len(body), body)
    recorder = parse(*(data[at : at + 32768] for at in range(0, len(data), 32768)))
    assert [message[-1] for message in recorder.got] == [body, b"ok"]


def test_after_each_chunk() -> None:
    """It is told once for each, after its messages, so that drops are counted together; and each one is heard."""
    recorder = parse(b"MSG a 1 1\r\nx\r\nMSG a 1 1\r\n", b"y\r\n", b"PI", b"NG\r\n")
    assert recorder.chunks_ended == [1, 2, 2, 3]
    assert recorder.heard == 4


GARBAGE = [
    b"MSG a 1 -15\r\n",
    b"PING\r\nMSG a 1 -15\r\nPING\r\n",
    b"MSG a 1 -1\r\n",
    b"HMSG a 1 -20 5\r\nhello\r\n",
    b"HMSG a 1 0 -19\r\n",
    b"HMSG a 1 9 5\r\nhello\r\n",
    b"MSG a 5\r\nhello\r\n",
    b"MSG 5\r\nhello\r\n",
    b"MSG\r\n",
    b"MSG a b c d 5\r\nhello\r\n",
    b"HMSG a 1 5\r\nhello\r\n",
    b"HMSG a 1 r x 12 12 \r\nhello\r\n",
    b"MSG a one 5\r\nhello\r\n",
    b"MSG a 1 five\r\nhello\r\n",
    b"MSG a 1 " + b"9" * 5000 + b"\r\n",
    b"INFO 5\r\n",
    b"INFO {\r\n",
    b"INFO \xff\r\n",
    b"INFO " + b"[" * 50_000 + b"\r\n",
    b"INFO\r\n",
    b"-ERR\r\n",
    b"-ERR \r\n",
    b"-ERR 'x\r\n",
    b"-ERR '\xff'\r\n",
    b"PINGPONG\r\n",
    b"hello\r\n",
    b"\r\n",
    b" \r\n",
    b"x" * 5000 + b"\r\n",
    b"msg a 1 5\r\nhello\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: garbage[:24].decode("ascii", "replace"))
def test_garbage_is_a_protocol_error(garbage: bytes) -> None:
    """At once, so that the client reconnects; what stood before it was delivered."""

    async def body() -> list[tuple[Any, ...]]:
        recorder = Recorder()
        with pytest.raises(errors.ProtocolError):
            await recorder.parser.parse(b"MSG a 1 2\r\nok\r\n" + garbage)
        return recorder.got

    assert drive(body())[0] == ("MSG", b"1", b"a", b"", b"", b"ok")


def test_a_line_without_end() -> None:
    """More than 1 MiB of it is no NATS, and is not kept."""

    async def body() -> None:
        recorder = Recorder()
        with pytest.raises(errors.ProtocolError):
            for _ in range(LONGEST_LINE // 32768 + 2):
                await recorder.parser.parse(b"x" * 32768)
        assert len(recorder.parser.buf) <= LONGEST_LINE

    drive(body())


MUTATIONS = st.lists(st.tuples(st.integers(0, 1 << 16), st.one_of(st.none(), st.binary(max_size=6))), max_size=4)


def mutate(data: bytes, mutations: list[tuple[int, bytes | None]]) -> bytes:
    """Replace, insert and remove bytes here and there."""
    for place, what in mutations:
        at = place % (len(data) + 1)
        data = data[:at] + (what or b"") + data[at + (what is None) :]
    return data


@given(STREAMS, MUTATIONS, st.binary(max_size=80), CUTS)
@settings(max_examples=300)
@example([], [], b"MSG a 1 -15\r\n", [])
def test_broken_streams(items: list[Item], mutations: list[Any], tail: bytes, places: list[int]) -> None:
    """Whatever was damaged: ProtocolError or nothing, always an end, and no buffer that only grows."""
    data = mutate(b"".join(data for data, _ in items), mutations) + tail

    async def body() -> None:
        recorder = Recorder()
        for chunk in cut(data, places):
            try:
                await recorder.parser.parse(chunk)
            except errors.ProtocolError:
                return
            if recorder.parser.state != AWAITING_MSG_PAYLOAD:
                assert b"\r\n" not in recorder.parser.buf

    drive(body())


WORDS = [b"MSG", b"HMSG", b"INFO", b"PING", b"-ERR", b"a", b"1", b"-1", b"-15", b"12", b" ", b"\r\n", b"{}"]


@given(st.lists(st.sampled_from(WORDS)))
@settings(max_examples=300)
def test_words_of_the_protocol_in_any_order(words: list[bytes]) -> None:
    """Lines that almost are commands."""

    async def body() -> None:
        try:
            await Recorder().parser.parse(b" ".join(words) + b"\r\n")
        except errors.ProtocolError:
            pass

    drive(body())


def test_errors_of_the_connection_stay_what_they_are() -> None:
    """A PING's answer that cannot be written is no fault of the protocol: nats-py knows what to do with it."""

    class Broken(Recorder):
        async def _process_ping(self) -> None:
            raise ConnectionResetError(104, "reset")

    async def body() -> None:
        with pytest.raises(ConnectionResetError):
            await Broken().parser.parse(b"PING\r\n")

    run(body())
