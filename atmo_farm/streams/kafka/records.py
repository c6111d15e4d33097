"""Headers of records: Kafka's are pairs of a name and bytes."""

from __future__ import annotations

from collections.abc import Sequence

from atmo_farm.streams.base import Output
from atmo_farm.streams.headers import REPLAY_FOR

Headers = Sequence[tuple[str, bytes | None]]


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
