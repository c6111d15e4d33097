"""The one way to a guest's memory: every pointer and length is the guest's word and is checked here."""

from __future__ import annotations

import ctypes

from atmo_farm.runtime import capi

TEXT_CAP = 64 << 10
"""Bytes of a name, a key, a URL or a log message; a longer one is not read. Broken UTF-8 takes 15 ms for each MiB."""

QUERY_CAP = 256 << 10
"""Bytes of a GraphQL query."""

DATA_CAP = 16 << 20
"""Bytes of a value or a body; a larger one is not read. A copy takes 2 ms for each MiB, and nothing else runs then."""


class Refused(Exception):
    """A guest's call that cannot be answered; it sees an error number, and nothing is logged."""


class BadPointer(Refused):
    """The guest gave a place that is not in its memory, or asks for more than a cap."""


class GuestMemory:
    """A guest's linear memory. Pointers and lengths are unsigned; sums do not overflow; nothing is cut short.

    The address never changes (the engine does not let memories move) and the size only grows, so it is asked for
    again only when an access goes past what is known.
    """

    __slots__ = ("_base", "_context", "_handle", "_size")

    def __init__(self, context: int, handle: int):
        self._context, self._handle = context, handle
        self._base: int = capi.memory_data(context, handle) or 0
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes that the guest has now."""
        self._size = int(capi.memory_data_size(self._context, self._handle))
        return self._size

    def check(self, at: int, length: int) -> None:
        """BadPointer unless `length` bytes at `at` are the guest's."""
        at &= 0xFFFFFFFF
        length &= 0xFFFFFFFF
        if at + length > self._size and at + length > self.size:
            raise BadPointer(f"{length} bytes at {at} are outside of the guest's memory")

    def read(self, at: int, length: int) -> bytes:
        """A copy of `length` bytes at `at`; BadPointer also when that is more than DATA_CAP."""
        if length & 0xFFFFFFFF > DATA_CAP:
            raise BadPointer(f"{length & 0xFFFFFFFF} bytes; at most {DATA_CAP} are read")
        self.check(at, length)
        return ctypes.string_at(self._base + (at & 0xFFFFFFFF), length & 0xFFFFFFFF)

    def text(self, at: int, length: int, cap: int = TEXT_CAP) -> str:
        """A short text as UTF-8, with replacements where it is not; BadPointer also when it is over its cap."""
        if length & 0xFFFFFFFF > cap:
            raise BadPointer(f"a text of {length & 0xFFFFFFFF} bytes; at most {cap} are read")
        return self.read(at, length).decode("utf-8", "replace")

    def write(self, at: int, data: bytes) -> None:
        """Put `data` at `at`; BadPointer, and then nothing is written."""
        self.check(at, len(data))
        ctypes.memmove(self._base + (at & 0xFFFFFFFF), data, len(data))
