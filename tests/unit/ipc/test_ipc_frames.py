"""The wire between processes and the proxy: what is packed comes out again, however it is cut; garbage is refused."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo_farm.ipc import frames
from atmo_farm.ipc.frames import MalformedFrame, Op, Splitter, Status

_texts = st.text(max_size=20)
_numbers = st.integers(0, 2**32 - 1)
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
_calls = st.sampled_from(list(Op)).flatmap(lambda op: st.tuples(st.just(op), _arguments[op]))


def requests() -> Splitter:
    return Splitter(frames.REQUEST, frames.MAX_REQUEST)


def replies() -> Splitter:
    return Splitter(frames.REPLY, frames.MAX_REPLY)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The data cut at these places (modulo its length)."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in itertools.pairwise(places)]


def split(splitter: Splitter, chunks: Iterable[bytes]) -> tuple[list[tuple[Any, ...]], bool]:
    """All frames, and whether a malformed one ended it."""
    found: list[tuple[Any, ...]] = []
    try:
        for chunk in chunks:
            found.extend(splitter.split(chunk))
    except MalformedFrame:
        return found, True
    return found, False


@given(_calls, _numbers, st.integers(0, 2**16 - 1), st.floats(allow_nan=False))
def test_a_request_comes_out_as_it_was_packed(
    call: tuple[Op, tuple[Any, ...]], number: int, handler: int, deadline: float
) -> None:
    op, arguments = call
    data = frames.request(op, number, handler, deadline, arguments)
    [((_, *head), payload)] = requests().split(data)
    assert head == [number, handler, op, deadline]
    assert frames.arguments(op, payload) == arguments


@given(_numbers, st.sampled_from(list(Status)), st.binary(max_size=100))
def test_a_reply_comes_out_as_it_was_packed(number: int, status: Status, payload: bytes) -> None:
    [((_, *head), found)] = replies().split(frames.reply(number, status, payload))
    assert (head, found) == ([number, status], payload)


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(0), max_size=30))
def test_any_cutting_gives_the_same_frames(payloads: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frames.reply(number, Status.OK, payload) for number, payload in enumerate(payloads))
    found, malformed = split(replies(), pieces(data, cuts))
    assert not malformed
    assert [(head[1], payload) for head, payload in found] == list(enumerate(payloads))


@given(st.lists(st.binary(max_size=30), max_size=5), st.binary(max_size=200), st.lists(st.integers(0), max_size=30))
def test_any_cutting_of_garbage_gives_the_same_frames_and_the_same_end(
    payloads: list[bytes], garbage: bytes, cuts: list[int]
) -> None:
    data = b"".join(frames.reply(number, Status.OK, payload) for number, payload in enumerate(payloads)) + garbage
    expected, _ = split(Splitter(frames.REPLY, 1000), [data])
    bytewise, _ = split(Splitter(frames.REPLY, 1000), [data[i : i + 1] for i in range(len(data))])
    assert bytewise == expected
    assert split(Splitter(frames.REPLY, 1000), pieces(data, cuts)) == split(Splitter(frames.REPLY, 1000), [data])


@given(st.integers(0, 255), st.binary(max_size=60))
def test_a_payload_of_garbage_is_malformed_and_nothing_else(op: int, payload: bytes) -> None:
    try:
        found = frames.arguments(op, payload)
    except MalformedFrame:
        return
    assert msgspec.msgpack.decode(frames.encode(found)) is not None
    assert op in list(Op)


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
    ],
)
def test_arguments_of_other_types_are_malformed(op: Op, arguments: Any) -> None:
    with pytest.raises(MalformedFrame, match=op.name):
        frames.arguments(op, frames.encode(arguments))


def test_a_payload_nested_deeply_is_malformed() -> None:
    with pytest.raises(MalformedFrame):
        frames.arguments(Op.HELLO, b"\x91" * 100_000)


def test_an_unknown_op_is_malformed() -> None:
    with pytest.raises(MalformedFrame, match="op 200"):
        frames.arguments(200, b"\x90")


@pytest.mark.parametrize("length", [0, 1, 15, frames.MAX_REQUEST + 1, 2**32 - 1])
def test_a_length_that_cannot_be_is_refused_with_its_fourth_byte(length: int) -> None:
    """Before anything is kept for it, and before the rest of its head is there."""
    data = length.to_bytes(4, "little")
    splitter = requests()
    assert list(splitter.split(data[:3])) == []
    with pytest.raises(MalformedFrame, match=str(length)):
        list(splitter.split(data[3:]))


def test_the_frames_before_a_malformed_one_come_out() -> None:
    good = frames.reply(1, Status.OK, b"good")
    taken = []
    with pytest.raises(MalformedFrame):
        for frame in replies().split(good + b"\x00" * 20):
            taken.append(frame)
    assert [payload for _, payload in taken] == [b"good"]


def test_the_largest_frames_pass_and_larger_ones_are_refused() -> None:
    room = frames.MAX_REQUEST - frames.REQUEST.size
    overhead = len(frames.encode((b"",))) + 4 + 100
    assert frames.request(Op.CACHE_SET, 1, 0, 0.0, ("k", bytes(room - overhead), 0))
    with pytest.raises(ValueError, match="80 MiB"):
        frames.request(Op.CACHE_SET, 1, 0, 0.0, ("k", bytes(room), 0))
    [((_, _, status), payload)] = replies().split(frames.reply(1, Status.OK, bytes(frames.MAX_RESULT)))
    assert (status, len(payload)) == (Status.OK, frames.MAX_RESULT)
    [((_, _, status), payload)] = replies().split(frames.reply(1, Status.OK, bytes(frames.MAX_RESULT + 1)))
    assert status == Status.FAILED
    assert b"larger than 80 MiB" in payload


def test_a_large_frame_in_small_pieces_costs_no_more_than_its_size() -> None:
    """Each piece is copied twice at most, and what piles up is what has come."""
    size = 64 << 20
    data = frames.reply(1, Status.OK, bytes(size)) + frames.reply(2, Status.OK, b"next")
    splitter = replies()
    began = time.process_time()
    found = []
    for begin in range(0, len(data), 16 << 10):
        found.extend(splitter.split(data[begin : begin + (16 << 10)]))
    assert [(head[1], len(payload)) for head, payload in found] == [(1, size), (2, 4)]
    assert time.process_time() - began < 3  # joining at every piece would copy 128 GiB


def test_a_frame_that_never_ends_takes_no_more_memory_than_it_has_bytes() -> None:
    splitter = requests()
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


@given(st.floats())
def test_a_deadline_is_any_number(deadline: float) -> None:
    [((_, _, _, _, found), _)] = requests().split(frames.request(Op.CANCEL, 1, 0, deadline, ()))
    assert found == deadline or math.isnan(deadline)
