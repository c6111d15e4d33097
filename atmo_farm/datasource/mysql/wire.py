"""Whether the answer to a query has come as a whole, told from the bytes that wait in the socket.

The driver reads answers by calls that block until they are whole, so they belong on a thread; a small answer that lies
there already needs none.

    packet          length u24 │ number u8 │ payload
    answer          OK │ ERR │ count, count × definition, EOF, any × row, EOF or ERR

    OK              00, changed rows and last id (numbers of 1, 3, 4 or 9 bytes), status u16, …
    ERR             ff, error u16, …          error ffff reports progress, and more follows
    EOF             fe, warnings u16, status u16
    count           columns u8                and 01 where MariaDB says that definitions follow
"""

from __future__ import annotations

import struct
from collections.abc import Callable

WINDOW = 32 << 10
"""Bytes that are looked at; servers write answers in pieces of 16 KiB."""

_OK, _ERR, _EOF = 0x00, 0xFF, 0xFE
_LARGEST_COUNT = 0xFA
_EOF_SIZE = 5
_PROGRESS = 0xFFFF
_MORE_RESULTS = 0x0008
_NUMBER_SIZES = {0xFC: 3, 0xFD: 4, 0xFE: 9}

_header: Callable[..., tuple[int]] = struct.Struct("<I").unpack_from
_u16: Callable[..., tuple[int]] = struct.Struct("<H").unpack_from


def head_of_whole(data: bytearray, size: int) -> int:
    """When data[:size] is one whole answer and the only one: how many of its bytes stand before its first row and tell
    its columns are. Else 0. `data` is longer than `size` by 16 bytes at least."""
    if size < 5:
        return 0
    length = _header(data)[0] & 0xFFFFFF
    end = 4 + length
    if end > size or not length:
        return 0
    first = data[4]
    if first == _OK:
        return end if end == size and not _u16(data, _status_of_ok(data))[0] & _MORE_RESULTS else 0
    if first == _ERR:
        return end if end == size and _u16(data, 5)[0] != _PROGRESS else 0
    if first > _LARGEST_COUNT or not (length == 1 or (length == 2 and data[5] == 1)):
        return 0
    at, last = end, size - 5
    for _ in range(first):
        if at > last:
            return 0
        at += 4 + (_header(data, at)[0] & 0xFFFFFF)
    if at > last or data[at + 4] != _EOF:
        return 0
    at += 4 + _EOF_SIZE
    return at if _rows_are_whole(data, at, size) else 0


def _rows_are_whole(data: bytearray, at: int, size: int) -> bool:
    while at <= size - 5:
        length = _header(data, at)[0] & 0xFFFFFF
        first = data[at + 4]
        if first == _EOF and length == _EOF_SIZE:
            return at + 4 + length == size and not _u16(data, at + 7)[0] & _MORE_RESULTS
        if first == _ERR:
            return at + 4 + length == size and _u16(data, at + 5)[0] != _PROGRESS
        at += 4 + length
    return False


def _status_of_ok(data: bytearray) -> int:
    """Where the status of an OK packet begins."""
    at = 5
    for _ in range(2):
        at += _NUMBER_SIZES.get(data[at], 1)
    return at
