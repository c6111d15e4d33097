"""The wire between processes and the proxy: what is packed comes out again, however it is cut; garbage is refused."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo_farm.ipc import frames
from atmo_farm.ipc.frames import MalformedFrame, Op, Splitter, Status

_texts = st.text(max_size=20)
_numbers = st.integers(0, 2**63 - 1)
_arguments = {
    Op.HELLO: st.tuples(_numbers, st.lists(_texts, max_size=5)),
    Op.CANCEL: st.just(()),
    Op.STATE: st.tuples(st.lists(_texts, max_size=5)),
    Op.CACHE_GET: st.tuples(_texts),
    Op.CACHE_SET: st.tuples(_texts, st.binary(max_size=50), st.integers(-(2**31), 2**31 - 1)),
    Op.QUERY: st.tuples(_texts, st.lists(st.binary(max_size=9), max_size=4), _numbers, st.booleans()),
    Op.COMMIT: st.tuples(_texts, _numbers),
    Op.ROLLBACK: st.tuples(_texts, _numbers),
}
_asked = st.sampled_from(list(Op)).flatmap(
    lambda op: st.tuples(st.just(op), _numbers, _numbers, st.floats(allow_nan=False), _arguments[op])
)
_replies = st.tuples(_numbers, st.sampled_from(list(map(int, Status))), st.binary(max_size=100))


def content_of(frame: bytes) -> bytes:
    [content] = Splitter(frames.MAX_REQUEST).split(frame)
    return content


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The data cut at these places (modulo its length)."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


def split(chunks: Iterable[bytes], longest: int = frames.MAX_REPLY) -> tuple[list[bytes], bool]:
    """The contents of all frames, and whether a malformed one ended it."""
    splitter = Splitter(longest)
    found: list[bytes] = []
    try:
        for chunk in chunks:
            found.extend(splitter.split(chunk))
    except MalformedFrame:
        return found, True
    return found, False


@given(st.lists(_asked, max_size=20))
def test_requests_come_out_as_they_were_made(asked: list[Any]) -> None:
    content = content_of(frames.frame(frames.encode(asked)))
    found = [(r.op, r.number, r.handler, r.deadline, r.arguments) for r in frames.requests(content)]
    assert found == asked


@given(st.lists(_replies, max_size=20))
def test_replies_come_out_as_they_were_made(replies: list[Any]) -> None:
    assert frames.replies(content_of(frames.frame(frames.encode(replies)))) == replies


def test_one_request_and_one_reply() -> None:
    [request] = frames.requests(content_of(frames.request(Op.CACHE_GET, 1, 2, 3.5, ("key",))))
    assert request == frames.CacheGet(1, 2, 3.5, ("key",))
    assert frames.replies(content_of(frames.reply(1, Status.OK, b"value"))) == [(1, 0, b"value")]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.lists(st.integers(0), max_size=30))
def test_any_cutting_gives_the_same_frames(contents: list[bytes], cuts: list[int]) -> None:
    data = b"".join(map(frames.frame, contents))
    assert split(pieces(data, cuts)) == (contents, False)


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.binary(max_size=200), st.lists(st.integers(0)))
def test_any_cutting_of_garbage_gives_the_same_frames_and_the_same_end(
    contents: list[bytes], garbage: bytes, cuts: list[int]
) -> None:
    data = b"".join(map(frames.frame, contents)) + garbage
    assert split(pieces(data, cuts), 1000) == split([data], 1000)
    assert split([data[i : i + 1] for i in range(len(data))], 1000) == split([data], 1000)


@given(st.binary(max_size=60))
def test_a_content_of_garbage_is_malformed_and_nothing_else(content: bytes) -> None:
    for read in (frames.requests, frames.replies):
        try:
            found: list[Any] = read(content)  # type: ignore[assignment]
        except MalformedFrame:
            continue
        assert type(found) is list


@given(st.lists(_asked, min_size=1, max_size=3), st.data())
def test_a_content_with_a_wrong_byte_is_malformed_or_something_else_of_the_right_types(
    asked: list[Any], data: st.DataObject
) -> None:
    content = bytearray(frames.encode(asked))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = frames.requests(bytes(content))
    except MalformedFrame:
        return
    assert all(type(request.number) is int and type(request.arguments) is tuple for request in found)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (Op.CACHE_GET, ()),
        (Op.CACHE_GET, ("key", "more")),
        (Op.CACHE_GET, (5,)),
        (Op.CACHE_SET, ("key", "text", 0)),
        (Op.CACHE_SET, ("key", b"value", 1.5)),
        (Op.CACHE_SET, ("key", b"value", 2**40)),
        (Op.QUERY, ("name", ["text"], 0, True)),
        (Op.QUERY, ("name", [b"value"], 0, 1)),
        (Op.QUERY, ("name", [b"value"], -1, True)),
        (Op.QUERY, {"name": 1}),
        (Op.CANCEL, (1,)),
        (200, ()),
        (-1, ()),
    ],
)
def test_arguments_of_other_types_are_malformed(op: int, arguments: Any) -> None:
    with pytest.raises(MalformedFrame):
        frames.requests(content_of(frames.request(op, 1, 0, 0.0, arguments)))


@pytest.mark.parametrize("head", [(Op.CANCEL,), (Op.CANCEL, 1, 0, 0.0, (), 5), (Op.CANCEL, -1, 0, 0.0, ()), ("1", 1)])
def test_heads_of_other_shapes_are_malformed(head: Any) -> None:
    with pytest.raises(MalformedFrame):
        frames.requests(frames.encode([head]))


@pytest.mark.parametrize("read", [frames.requests, frames.replies])
def test_a_content_nested_deeply_is_malformed(read: Callable[[bytes], object]) -> None:
    with pytest.raises(MalformedFrame):
        read(b"\x91" * 100_000)


def test_a_long_frame_holds_one_request() -> None:
    """The proxy reads a frame in one go: it must not hold the loop for long."""
    asked = (Op.CACHE_GET, 1, 0, 0.0, ("k" * 40_000,))
    assert len(frames.requests(frames.encode([asked]))) == 1
    with pytest.raises(MalformedFrame, match="several requests in a frame"):
        frames.requests(frames.encode([asked, asked]))
    small = (Op.CACHE_GET, 1, 0, 0.0, ("",))
    count = frames.MAX_BATCH // len(frames.encode(small)) - 1
    began = time.process_time()
    assert len(frames.requests(frames.encode([small] * count))) == count
    assert time.process_time() - began < 0.05


@pytest.mark.parametrize("length", [0, frames.MAX_REQUEST + 1, 2**32 - 1])
def test_a_length_that_cannot_be_is_refused_with_its_fourth_byte(length: int) -> None:
    """Before anything is kept for it."""
    data = length.to_bytes(4, "little")
    splitter = Splitter(frames.MAX_REQUEST)
    assert list(splitter.split(data[:3])) == []
    with pytest.raises(MalformedFrame, match=str(length)):
        list(splitter.split(data[3:]))


def test_the_frames_before_a_malformed_one_come_out() -> None:
    assert split([frames.frame(b"good") + bytes(20)]) == ([b"good"], True)


def test_writing_a_frame_copies_a_large_one_no_more() -> None:
    written: list[bytes] = []
    large = bytes(1 << 20)
    frames.write(written.append, b"small")
    frames.write(written.append, large)
    assert written == [frames.frame(b"small"), frames.frame(large)[:4], large]
    assert written[2] is large


def test_a_large_frame_in_small_pieces_costs_no_more_than_its_size() -> None:
    """Each piece is copied twice at most, and what piles up is what has come."""
    size = 64 << 20
    data = frames.frame(bytes(size)) + frames.frame(b"next")
    splitter = Splitter(frames.MAX_REPLY)
    began = time.process_time()
    found = []
    for begin in range(0, len(data), 16 << 10):
        found.extend(map(len, splitter.split(data[begin : begin + (16 << 10)])))
    assert found == [size, 4]
    assert time.process_time() - began < 3  # joining at every piece would copy 128 GiB


def test_a_frame_that_never_ends_takes_no_more_memory_than_it_has_bytes() -> None:
    splitter = Splitter(frames.MAX_REQUEST)
    tracemalloc.start()
    try:
        list(splitter.split(frames.MAX_REQUEST.to_bytes(4, "little")))
        for _ in range(100):
            list(splitter.split(bytes(10_000)))
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert current < 1_200_000
    assert peak < 1_500_000
