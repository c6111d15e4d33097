"""The functions of WASI preview1 that need Python: time, randomness, sleep. The sink has all the others.

subscription, 48 bytes: 0 userdata u64 · 8 tag u8 (0 clock, 1 fd_read, 2 fd_write) · clock: 16 id u32, 24 timeout u64,
                        40 flags u16 (1: absolute)
event, 32 bytes:        0 userdata u64 · 8 errno u16 · 10 type u8 · 16 bytes ready u64
"""

from __future__ import annotations

import asyncio
import os
import struct
from typing import TYPE_CHECKING, Any

from atmo_farm import clock
from atmo_farm.runtime import host, waiting
from atmo_farm.runtime.memory import BadPointer

if TYPE_CHECKING:
    from atmo_farm.runtime.instance import Instance
    from atmo_farm.runtime.waiting import Asked

SUCCESS, BADF, FAULT, INVAL, IO = 0, 8, 21, 28, 29
RANDOM_CAP = 1 << 20
"""Bytes of one random_get: a host function cannot be interrupted."""
SUBSCRIPTIONS_CAP = 1024
_LONGEST_WAIT_S = 86_400.0 * 365
_SUBSCRIPTION = struct.Struct("<QB7xI4xQQH6x")
_EVENT = struct.Struct("<QHB5xQ8x")
_CLOCK = 0


def _failed(_: Instance, error: BaseException) -> int:
    if isinstance(error, BadPointer):
        return FAULT
    if not isinstance(error, asyncio.CancelledError):
        host.internal_error("a WASI function", error)
    return IO


def _now_ns(clock_id: int) -> int | None:
    if clock_id == 0:
        return clock.wall_ns()
    return clock.monotonic_ns() if clock_id == 1 else None


def _clock_time_get(instance: Instance, a: Any) -> int:
    now = _now_ns(a[0])
    if now is None:
        return INVAL
    instance.memory.write(a[8], now.to_bytes(8, "little"))
    return SUCCESS


def _random_get(instance: Instance, a: Any) -> int:
    instance.memory.check(a[0], a[4])
    if a[4] > RANDOM_CAP:
        return INVAL
    instance.memory.write(a[0], os.urandom(a[4]))
    return SUCCESS


def _poll_oneoff(instance: Instance, a: Any) -> Asked:
    subscriptions_at, events_at, count, count_at = a[2], a[10], a[18], a[26]
    memory = instance.memory
    if not 0 < count <= SUBSCRIPTIONS_CAP:
        return b"", lambda _, __: INVAL
    subscriptions = list(_SUBSCRIPTION.iter_unpack(memory.read(subscriptions_at, count * _SUBSCRIPTION.size)))
    memory.check(events_at, count * _EVENT.size)
    memory.check(count_at, 4)
    due: list[tuple[float, bytes]] = []
    for userdata, tag, clock_or_fd, timeout, _, flags in subscriptions:
        wait_s, errno = _wait(tag, clock_or_fd, timeout, flags)
        due.append((wait_s, _EVENT.pack(userdata, errno, tag, int(tag != _CLOCK and errno == SUCCESS))))
    shortest = min(wait_s for wait_s, _ in due)
    events = b"".join(event for wait_s, event in due if wait_s <= shortest)

    def finish(instance: Instance, events: bytes) -> int:
        instance.memory.write(events_at, events)
        instance.memory.write(count_at, (len(events) // _EVENT.size).to_bytes(4, "little"))
        return SUCCESS

    if shortest <= 0:
        return events, finish
    return _after(instance.engine.loop, shortest, events), finish


def _wait(tag: int, clock_or_fd: int, timeout: int, flags: int) -> tuple[float, int]:
    """Seconds until an event, and its errno; descriptors are ready at once."""
    if tag != _CLOCK:
        return 0.0, SUCCESS if tag in (1, 2) and clock_or_fd <= 2 else BADF if tag in (1, 2) else INVAL
    now = _now_ns(clock_or_fd)
    if now is None:
        return 0.0, INVAL
    return min(max(0, timeout - now if flags & 1 else timeout) / 1e9, _LONGEST_WAIT_S), SUCCESS


def _after(loop: asyncio.AbstractEventLoop, delay_s: float, events: bytes) -> asyncio.Future[bytes]:
    future: asyncio.Future[bytes] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(events)

    timer = loop.call_later(delay_s, wake)
    future.add_done_callback(lambda _: timer.cancel())
    return future


SYNC: dict[str, Any] = {
    "clock_time_get": host.sync_callback(_clock_time_get, _failed),
    "random_get": host.sync_callback(_random_get, _failed),
}
"""name → callback, of those that answer at once."""

ASYNC: dict[str, Any] = {"poll_oneoff": waiting.callback("poll_oneoff", _poll_oneoff, _failed)}
"""name → callback, of those that may wait."""
