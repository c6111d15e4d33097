"""Telling from the bytes in a socket whether a whole answer is there."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atmo_farm.datasource.mysql.wire import WINDOW, head_of_whole
from tests.servers.fake_mysql import LONGLONG, UTF8MB4, VARCHAR, error, ok, packets, rows

MORE_RESULTS = 0x0008
END = b"\xfe\0\0\2\0"

values = st.one_of(st.none(), st.binary(max_size=300), st.sampled_from((b"\xfe", b"\xff", b"\0", b"\xfe\0\0\2\0")))
numbers = st.one_of(st.integers(0, 300), st.integers(0, 1 << 64))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """A whole answer of any kind."""
    kind = draw(st.sampled_from(("ok", "error", "rows")))
    if kind == "ok":
        return ok(draw(numbers) % (1 << 63), draw(numbers) % (1 << 63))
    if kind == "error":
        return error(draw(st.integers(1, 5000)), draw(st.binary(max_size=50)))
    names = draw(st.lists(st.text(max_size=20), min_size=1, max_size=6))
    columns = [(name, draw(st.sampled_from((VARCHAR, LONGLONG))), UTF8MB4) for name in names]
    width = len(columns)
    return rows(columns, draw(st.lists(st.lists(values, min_size=width, max_size=width), max_size=5)))


def head(data: bytes) -> int:
    """Of a window that holds these bytes, and others from before."""
    window = bytearray(b"\xfe\0\0\0" * ((len(data) + WINDOW) // 4))
    window[: len(data)] = data
    return head_of_whole(window, len(data))


@settings(max_examples=200, deadline=None)
@given(answers())
def test_whole_and_parts(answer: bytes) -> None:
    """A whole answer is one; no part of it is, nor is it with more behind it."""
    assert head(answer)
    assert not any(head(answer[:size]) for size in range(len(answer)))
    assert not head(answer + b"\0")
    assert not head(answer + answer)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Whatever a server sends is looked at without an error."""
    head(data)


def test_head() -> None:
    """The bytes before the first row depend on the columns alone."""
    columns = [("a", VARCHAR, UTF8MB4), ("b", LONGLONG, UTF8MB4)]
    none, some = rows(columns, []), rows(columns, [[b"x", None], [b"yy", b"2"]])
    assert head(none) == head(some)
    assert none[: head(none)] == some[: head(some)]
    assert head(none) == len(none) - 4 - len(END)


@pytest.mark.parametrize(
    "answer",
    [
        ok(status=MORE_RESULTS),
        ok(changed=1 << 20, last_id=1 << 40, status=MORE_RESULTS | 2),
        rows([("a", VARCHAR, UTF8MB4)], [[b"x"]], status=MORE_RESULTS),
        error(0xFFFF),
        packets(1, b"\xfb/etc/passwd"),
        packets(1, b"\xfc\x00\x01"),
        packets(1, b""),
        packets(1, b"\1\0", END),
        packets(1, b"\1", b"x" * 20, b"not an end", END),
    ],
    ids=[
        "more-ok",
        "more-large-ok",
        "more-rows",
        "progress",
        "local-infile",
        "many-columns",
        "empty",
        "no-head",
        "no-end",
    ],
)
def test_left_to_a_thread(answer: bytes) -> None:
    """Answers with others behind them, reports of progress, requests for files: what may take time to read."""
    assert not head(answer)


def test_an_error_among_the_rows() -> None:
    """It ends the answer as well."""
    whole = rows([("a", VARCHAR, UTF8MB4)], [[b"x"]])
    cut_off = whole[: -len(END) - 4] + packets(5, b"\xff" + struct.pack("<H", 1317) + b"#70100stopped")
    assert head(cut_off)
    assert not head(cut_off[:-1])
