"""Results as JSON."""

from __future__ import annotations

import datetime
import decimal
import json
import uuid

import pytest

from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.rows import RowWriter, changed, embedded, timestamp, timestamp_with_zone, unique_names

VALUES: tuple[tuple[object, str], ...] = (
    (1, "1"),
    (2**70, str(2**70)),
    (True, "true"),
    (None, "null"),
    (0.1, "0.1"),
    (float("nan"), "null"),
    (float("-inf"), "null"),
    ('a"ä', '"a\\"ä"'),
    (b"\xff\x00", '"/wA="'),
    (decimal.Decimal("1.10"), '"1.10"'),
    (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    (datetime.date(2026, 1, 31), '"2026-01-31"'),
    (datetime.datetime(2026, 1, 31, 1, 2, 3, tzinfo=datetime.UTC), '"2026-01-31T01:02:03Z"'),
    (datetime.time(1, 2, 3, 500000), '"01:02:03.500000"'),
    (embedded('{"a":  [1]}'), '{"a":  [1]}'),
    (embedded(b"[]"), "[]"),
    ((1, "a", None), '[1,"a",null]'),
    (1j, '"1j"'),
)


@pytest.mark.parametrize(("value", "text"), VALUES, ids=[text for _, text in VALUES])
def test_values(value: object, text: str) -> None:
    """What a driver may hand over."""
    writer = RowWriter(["a"], Limits())
    writer.add([(value,)])
    assert writer.finish().decode() == f'[{{"a":{text}}}]'


@pytest.mark.parametrize(
    ("given", "unique"),
    [
        ([], ()),
        (["a", "b"], ("a", "b")),
        (["a", "a"], ("a", "a_2")),
        (["a", "a", "a"], ("a", "a_2", "a_3")),
        (["a", "a", "a_2", "a"], ("a", "a_3", "a_2", "a_4")),
        (["a_2", "a", "a", "a_2"], ("a_2", "a", "a_3", "a_2_2")),
        (["", ""], ("", "_2")),
    ],
)
def test_unique_names(given: list[str], unique: tuple[str, ...]) -> None:
    """A name of a column of its own is never taken away from it."""
    assert unique_names(given) == unique


def test_pieces() -> None:
    """One array, however many pieces it came in, empty ones too."""
    for sizes in ([], [0], [3], [1, 2], [2, 0, 1]):
        writer = RowWriter(["n", "n"], Limits())
        numbers = iter(range(3))
        for size in sizes:
            writer.add([(next(numbers), None) for _ in range(size)])
        assert json.loads(writer.finish()) == [{"n": n, "n_2": None} for n in range(sum(sizes))]


@pytest.mark.parametrize("sizes", [[4], [2, 2], [3, 1], [1, 1, 1, 1]])
def test_rows_cap(sizes: list[int]) -> None:
    writer = RowWriter(["n"], Limits(rows=3))
    with pytest.raises(CallFailed, match="more than 3 rows"):
        for size in sizes:
            writer.add([(1,)] * size)


@pytest.mark.parametrize("sizes", [[5], [2, 3], [1, 1, 1, 1, 1]])
def test_bytes_cap(sizes: list[int]) -> None:
    """To the byte."""
    whole = len(json.dumps([{"n": 1}] * 5, separators=(",", ":")))
    for most, fits in ((whole, True), (whole - 1, False)):
        writer = RowWriter(["n"], Limits(bytes=most))
        try:
            for size in sizes:
                writer.add([(1,)] * size)
        except CallFailed as error:
            assert not fits
            assert f"longer than {most} bytes" in str(error)
        else:
            assert fits
            assert len(writer.finish()) == whole


def test_no_unicode() -> None:
    """Half of a surrogate pair is in no JSON."""
    with pytest.raises(CallFailed, match="not Unicode"):
        RowWriter(["a"], Limits()).add([("\ud800",)])


def test_changed() -> None:
    assert changed(7, 2) == b'{"lastInsertID":7,"rowsAffected":2}'
    assert changed(0, -1) == b'{"lastInsertID":0,"rowsAffected":0}'


@pytest.mark.parametrize(
    ("text", "json_text"),
    [
        ("2026-01-31 23:59:59", "2026-01-31T23:59:59Z"),
        ("2026-01-31 23:59:59.120000", "2026-01-31T23:59:59.120000Z"),
        ("infinity", "infinity"),
        ("0044-03-15 12:00:00 BC", "0044-03-15 12:00:00 BC"),
        ("10000-01-01 00:00:00", "10000-01-01 00:00:00"),
        ("31.01.2026 23:59:59", "31.01.2026 23:59:59"),
        ("", ""),
    ],
)
def test_timestamp(text: str, json_text: str) -> None:
    assert timestamp(text) == json_text


@pytest.mark.parametrize(
    ("text", "json_text"),
    [
        ("2026-01-31 23:59:59+00", "2026-01-31T23:59:59Z"),
        ("2026-01-31 23:59:59.5+00", "2026-01-31T23:59:59.5Z"),
        ("2026-01-31 23:59:59.123456-05", "2026-02-01T04:59:59.123456Z"),
        ("2026-01-31 23:59:59.120+05:30", "2026-01-31T18:29:59.12Z"),
        ("1800-01-01 00:00:00-04:56:02", "1800-01-01T04:56:02Z"),
        ("0001-01-01 00:00:00+01", "0001-01-01 00:00:00+01"),
        ("9999-12-31 23:59:59-01", "9999-12-31 23:59:59-01"),
        ("infinity", "infinity"),
        ("0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
    ],
)
def test_timestamp_with_zone(text: str, json_text: str) -> None:
    assert timestamp_with_zone(text) == json_text
