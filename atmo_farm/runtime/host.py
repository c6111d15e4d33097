"""Host functions: what a guest's import does in Python, and the two callbacks through which wasmtime calls it.

A guest runs only inside a poll, and polls do not nest, so the caller is always `Running.instance`: it is never told
by `ident`, which the guest chooses. Nothing is raised into wasmtime: ctypes would print and drop it, and an
asynchronous callback that sets no continuation aborts the process. So each callback sets a harmless answer first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from atmo_farm import clock
from atmo_farm.errors import HostError
from atmo_farm.runtime import abi, capi

if TYPE_CHECKING:
    from atmo_farm.runtime.instance import Instance

logger = logging.getLogger("atmo_farm.runtime")

TEXT_LIMIT = 64 << 10
"""Bytes of a name, key, header or URL."""
LOG_LIMIT = 4 << 10
"""Bytes of a guest's log line that are looked at."""
RANDOM_LIMIT = 1 << 20
"""Bytes that one random_get gives."""
POLL_LIMIT = 256
"""Subscriptions of one poll_oneoff."""

EINVAL, EIO, EFAULT = 28, 29, 21

Args = Sequence[int]
Bytes = bytes | Awaitable[bytes]


class Running:
    """Whose fiber runs now."""

    instance: Instance


# Each function of the outside: (instance, arguments) → what becomes the pending result.


def _fetch_url(i: Instance, a: Args) -> Bytes:
    return i.services.fetch_url(a[0], i.text(a[1], a[2]), i.data(a[3], a[4]))


def _graphql_query(i: Instance, a: Args) -> Bytes:
    return i.services.graphql_query(i.text(a[0], a[1]), i.data(a[2], a[3]).decode("utf-8", "replace"))


def _cache_set(i: Instance, a: Args) -> Bytes:
    return i.services.cache_set(i.text(a[0], a[1]), i.data(a[2], a[3]), a[4])


def _cache_get(i: Instance, a: Args) -> Bytes:
    return i.services.cache_get(i.text(a[0], a[1]))


def _db_exec(i: Instance, a: Args) -> Bytes:
    variables, i.variables = i.variables, []
    return i.services.db_exec(a[0], i.text(a[1], a[2]), variables)


def _get_static_file(i: Instance, a: Args) -> Bytes:
    return i.services.get_static_file(i.text(a[0], a[1]))


def _get_secret_value(i: Instance, a: Args) -> Bytes:
    return i.services.get_secret_value(i.text(a[0], a[1]))


def _request_get_field(i: Instance, a: Args) -> Bytes:
    return i.services.request_get_field(a[0], i.text(a[1], a[2]))


def _request_set_field(i: Instance, a: Args) -> Bytes:
    key = i.text(a[1], a[2])
    i.services.request_set_field(a[0], key, i.kept(a[3], a[4]))
    return b""


# Those that answer a status at once.


def _add_ffi_var(i: Instance, a: Args) -> int:
    name = i.text(a[0], a[1])
    i.variables.append((name, i.kept(a[2], a[3])))
    return 0


def _log_msg(i: Instance, a: Args) -> int:
    length = min(a[1] & 0xFFFFFFFF, LOG_LIMIT)
    i.services.log_msg(a[2], i.text(a[0], length))
    return 0


def _resp_set_header(i: Instance, a: Args) -> int:
    key = i.text(a[0], a[1])
    i.services.resp_set_header(key, i.kept(a[2], a[3]).decode("utf-8", "replace"))
    return 0


def _clock_time_get(i: Instance, a: Args) -> int:
    if not 0 <= a[0] <= 3:
        return EINVAL
    now = clock.wall_ns() if a[0] == 0 else clock.monotonic_ns()
    i.write(a[2], struct.pack("<Q", now))
    return 0


def _clock_res_get(i: Instance, a: Args) -> int:
    if not 0 <= a[0] <= 3:
        return EINVAL
    i.write(a[1], struct.pack("<Q", 1))
    return 0


def _random_get(i: Instance, a: Args) -> int:
    length = a[1] & 0xFFFFFFFF
    if length > RANDOM_LIMIT:
        return EINVAL
    i.write(a[0], os.urandom(length))
    return 0


def _poll_oneoff(i: Instance, a: Args) -> int | tuple[Awaitable[Any], Callable[[], int]]:
    """Timers suspend the guest; descriptors are ready at once. Events are written when the guest goes on."""
    count = a[2] & 0xFFFFFFFF
    if not 1 <= count <= POLL_LIMIT:
        return EINVAL
    raw = i.data(a[0], count * 48)
    ready: list[bytes] = []
    timers: list[tuple[float, bytes]] = []
    for at in range(0, len(raw), 48):
        userdata, tag = struct.unpack_from("<QB", raw, at)
        if tag == 0:
            which, timeout, flags = struct.unpack_from("<I4xQ8xH", raw, at + 16)
            if flags & 1:
                timeout = max(0, timeout - (clock.wall_ns() if which == 0 else clock.monotonic_ns()))
            timers.append((timeout / 1e9, struct.pack("<QHB21x", userdata, 0, 0)))
        else:
            ready.append(struct.pack("<QHB5xQ8x", userdata, 0, tag, 1))

    def answer() -> int:
        i.write(a[1], b"".join(ready))
        i.write(a[3], struct.pack("<I", len(ready)))
        return 0

    if ready or not timers:
        return answer()
    shortest = min(delay for delay, _ in timers)
    ready += [event for delay, event in timers if delay == shortest]
    return asyncio.sleep(min(shortest, 1e9)), answer


Handler = Callable[["Instance", Args], Any]
DATA: dict[str, Handler] = {
    "fetch_url": _fetch_url,
    "graphql_query": _graphql_query,
    "cache_get": _cache_get,
    "db_exec": _db_exec,
    "get_static_file": _get_static_file,
    "get_secret_value": _get_secret_value,
    "request_get_field": _request_get_field,
    "request_set_field": _request_set_field,
}
"""Those whose answer is the size of a pending result."""
STATUS: dict[str, Handler] = {
    "cache_set": _cache_set,
    "add_ffi_var": _add_ffi_var,
    "log_msg": _log_msg,
    "resp_set_header": _resp_set_header,
    "clock_time_get": _clock_time_get,
    "clock_res_get": _clock_res_get,
    "random_get": _random_get,
    "poll_oneoff": _poll_oneoff,
}
"""Those whose answer is a number, and nothing is pending."""

HANDLERS: list[tuple[Handler, bool, int]] = []
"""Number → what to call, whether its answer is pending data, what the guest sees when the host itself failed."""
NUMBERS: dict[str, int] = {}
for _name, _handler in {**DATA, **STATUS}.items():
    NUMBERS[_name] = len(HANDLERS)
    HANDLERS.append((_handler, _name in DATA, EFAULT if _name in abi.PREVIEW1 else -1))


def _failed(instance: Instance, error: BaseException, is_data: bool, otherwise: int) -> int:
    """The guest's view of an error: minus the length of its text, or a number."""
    if isinstance(error, HostError):
        if error.result is not None:
            return error.result if otherwise == -1 else otherwise
        return -instance.set_pending(error.message.encode()) or -1 if is_data else otherwise
    logger.error("host function failed", exc_info=error)
    return otherwise


@capi.SyncCallback
def call_sync(number: int | None, caller: int, values: Any, count: int) -> None:
    """A host function that never waits. The result takes the first argument's place."""
    handler, is_data, otherwise = HANDLERS[number or 0]
    instance = Running.instance
    try:
        answer = handler(instance, [values[k].i32 if k != 1 or number != CLOCK else 0 for k in range(count)])
        values[0].i32 = instance.set_pending(answer) if is_data else answer
    except BaseException as error:
        values[0].i32 = otherwise
        try:
            values[0].i32 = _failed(instance, error, is_data, otherwise)
        except BaseException:
            logger.exception("host function failed twice")


CLOCK = NUMBERS["clock_time_get"]


@capi.ContinuationCallback
def already_done(env: int | None) -> bool:
    """The answer was known at once."""
    return True


@capi.ContinuationCallback
def continue_guest(env: int) -> bool:
    """Asked at every poll of a waiting guest; True lets it go on. The result is -1 unless it can be delivered."""
    try:
        return Running.instance.deliver()
    except BaseException:
        logger.exception("host call not delivered")
        return True


@capi.Finalizer
def drop_wait(env: int) -> None:
    """wasmtime is done with the continuation: the guest goes on, or was killed while it waited."""
    instance = WAITING.pop(env, None)
    if instance is not None and instance.task is not None:
        task, instance.task = instance.task, None
        task.cancel()


WAITING: dict[int, Instance] = {}
"""Keeps alive what C knows by number only."""


@capi.AsyncCallback
def call_async(number: int | None, caller: Any, args: Any, nargs: int, results: Any, n: int, trap: Any, out: Any) -> None:
    """A host function that may wait. Runs on the guest's fiber and stack, inside a poll."""
    out.contents.callback = already_done
    handler, is_data, otherwise = HANDLERS[number or 0]
    result = results[0]  # writes through to wasmtime's array, which lives until the continuation is dropped
    result.kind, result.of.i32 = 0, otherwise
    instance = Running.instance
    try:
        answer = handler(instance, [args[k].of.i32 for k in range(nargs)])
        if isinstance(answer, bytes):
            result.of.i32 = instance.set_pending(answer) if is_data else 0
        elif isinstance(answer, int):
            result.of.i32 = answer
        else:
            if isinstance(answer, tuple):
                answer, finish = answer
                instance.wait_for(asyncio.ensure_future(answer), lambda _: finish(), result, False, otherwise)
            else:
                deliver = instance.set_pending if is_data else lambda _: 0
                instance.wait_for(asyncio.ensure_future(answer), deliver, result, is_data, otherwise)
            WAITING[instance.number] = instance
            out.contents.callback, out.contents.env = continue_guest, instance.number
            out.contents.finalizer = drop_wait
    except BaseException as error:
        try:
            result.of.i32 = _failed(instance, error, is_data, otherwise)
        except BaseException:
            logger.exception("host function failed twice")
