"""The default cache: in this process's memory, shared by all consumers, gone when the process is.

Bounded in bytes; what was not used for longest goes first. A key that has expired is as one that was never there.
"""

from __future__ import annotations

from collections import OrderedDict

from atmo_farm import clock
from atmo_farm.datasource.call import Call
from atmo_farm.datasource.errors import CallFailed
from atmo_farm.ipc.frames import Op
from atmo_farm.ipc.gauges import SourceFigures

ENTRY_COST = 256
"""Bytes that Python takes for an entry beside its key and value, about."""

NOT_FOUND = CallFailed("key not found")

_CACHE_GET = Op.CACHE_GET


class MemoryCache:
    """`base.Source`; `capacity` in bytes, keys, values and ENTRY_COST each."""

    name = "cache"

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._entries: OrderedDict[str, tuple[bytes, float | None]] = OrderedDict()
        """key → value and when it expires."""
        self._used = self._entries.move_to_end
        self.size = 0
        """Bytes in use."""
        self.hits = self.misses = self.evicted = 0

    async def open(self) -> None:
        """There is nothing to connect to."""

    def execute(self, call: Call) -> None:
        """Answers at once."""
        if call.op is _CACHE_GET:
            value = self.get(call.arguments[0])
            if value is not None:
                call.answer(value)
            else:
                call.fail(NOT_FOUND)
            return
        key, value, ttl_s = call.arguments
        try:
            self.set(key, value, ttl_s)
        except CallFailed as error:
            call.fail(error)
        else:
            call.answer(b"")

    def get(self, key: str) -> bytes | None:
        """The value, or None when there is none or its time is over."""
        found = self._entries.get(key)
        if found is None:
            self.misses += 1
            return None
        value, expires_at = found
        if expires_at is not None and clock.monotonic() >= expires_at:
            self._remove(key)
            self.misses += 1
            return None
        self._used(key)
        self.hits += 1
        return value

    def set(self, key: str, value: bytes, ttl_s: int) -> None:
        """Keep a value, for ever when ttl_s is 0; CallFailed when it could never fit."""
        cost = _cost(key, value)
        if cost > self._capacity:
            raise CallFailed(f"a value of {len(value)} bytes is more than the cache holds ({self._capacity} bytes)")
        if key in self._entries:
            self._remove(key)
        self._entries[key] = value, clock.monotonic() + ttl_s if ttl_s > 0 else None
        self.size += cost
        while self.size > self._capacity:
            self._remove(next(iter(self._entries)))
            self.evicted += 1

    def cancel(self, call: Call) -> None:
        """Nothing is ever under way."""

    def forget(self, client: object) -> None:
        """Nothing belongs to a client."""

    def problem(self) -> str:
        """It is always there."""
        return ""

    def figures(self) -> SourceFigures:
        """It needs no connection."""
        return SourceFigures(is_up=True, connections=0, busy=0, waiting=0, outages=0)

    async def ping(self) -> None:
        """It is always there."""

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size = 0

    def _remove(self, key: str) -> None:
        value, _ = self._entries.pop(key)
        self.size -= _cost(key, value)


def _cost(key: str, value: bytes) -> int:
    size = len(key) if key.isascii() else len(key.encode())
    return size + len(value) + ENTRY_COST
