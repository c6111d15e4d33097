"""The Runnable ABI's host functions that Python answers: from the guest's numbers to `services` and back.

None of them raises, none trusts a pointer, a length or the `ident` that the guest hands over. What a guest gets:
≥ 0 the length of what is pending now; minus the length of an error text, then pending; -1 the host failed and nothing
is pending (also for pointers outside of the guest, and for calls outside of a run); -2 where a HostError says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from atmo_farm import clock, log
from atmo_farm.errors import HostError
from atmo_farm.runtime import capi, waiting
from atmo_farm.runtime.memory import QUERY_CAP, Refused
from atmo_farm.runtime.ticker import current

if TYPE_CHECKING:
    from atmo_farm.runtime.instance import Instance
    from atmo_farm.runtime.waiting import Asked

logger = logging.getLogger("atmo_farm.runtime")

HOST_FAILED = -1
SHORTEST_TEXT = 3
"""An error text is at least this long: minus its length must not read as one of the ABI's own -1 and -2."""
VARIABLES_CAP = 16 << 20
"""Bytes of all variables of one db_exec, each counted with VARIABLE_COST more."""
VARIABLE_COST = 64

SyncHandler = Callable[["Instance", Any], int]
_WORDS = 4
"""Words of 4 bytes from one argument to the next, in a sync callback."""

_internal_errors = log.RateLimit(lines_per_s=1, burst=100)


def internal_error(what: str, error: BaseException) -> None:
    """Log what should not have been raised; not each time, for a guest may bring it about as often as it likes."""
    if _internal_errors.allow():
        dropped = _internal_errors.take_dropped() or None
        log.event(logger, logging.ERROR, f"internal error in {what}", exc_info=error, lines_dropped=dropped)


def failed(instance: Instance, error: BaseException) -> int:
    """The guest's number for what a service raised; a HostError's text is pending afterwards."""
    try:
        if isinstance(error, HostError):
            if error.result is not None:
                return error.result
            return _pend_error(instance, (error.message or "host call failed").encode("utf-8", "replace"))
        if isinstance(error, asyncio.CancelledError):
            return _pend_error(instance, b"host call was cancelled")
        if not isinstance(error, Refused):
            internal_error("a host function", error)
    except Exception:
        return HOST_FAILED
    return HOST_FAILED


def _pend_error(instance: Instance, text: bytes) -> int:
    return -abs(instance.pend(text.ljust(SHORTEST_TEXT)))  # negative already where the text itself does not fit


def _failed_plainly(instance: Instance, error: BaseException) -> int:
    """The same for functions that leave nothing pending."""
    if isinstance(error, HostError) and error.result is None:
        return HOST_FAILED
    return failed(instance, error)


def _pend(instance: Instance, answer: bytes) -> int:
    return instance.pend(answer)


def _ok(_: Instance, __: bytes) -> int:
    return 0


def _request_get_field(instance: Instance, a: Any) -> int:
    return instance.pend(instance.run().request_get_field(a[0], instance.memory.text(a[4], a[8])))


def _request_set_field(instance: Instance, a: Any) -> int:
    memory = instance.memory
    instance.run().request_set_field(a[0], memory.text(a[4], a[8]), memory.read(a[12], a[16]))
    return instance.pend(b"")


def _resp_set_header(instance: Instance, a: Any) -> int:
    memory = instance.memory
    instance.run().resp_set_header(memory.text(a[0], a[4]), memory.text(a[8], a[12]))
    return 0


def _log_msg(instance: Instance, a: Any) -> int:
    instance.run().log_msg(a[8], instance.memory.text(a[0], a[4]))
    return 0


def _add_ffi_var(instance: Instance, a: Any) -> int:
    memory = instance.memory
    instance.run()
    memory.check(a[8], a[12])
    cost = instance.variables_size + a[4] + a[12] + VARIABLE_COST
    if cost > VARIABLES_CAP:
        return HOST_FAILED
    instance.add_variable(memory.text(a[0], a[4]), memory.read(a[8], a[12]), cost)
    return 0


# In an asynchronous callback argument i is the word 8 * i + 2.


def _fetch_url(instance: Instance, a: Any) -> Asked:
    memory = instance.memory
    return instance.run().fetch_url(a[2], memory.text(a[10], a[18]), memory.read(a[26], a[34])), _pend


def _graphql_query(instance: Instance, a: Any) -> Asked:
    memory = instance.memory
    query = memory.text(a[18], a[26], QUERY_CAP)
    return instance.run().graphql_query(memory.text(a[2], a[10]), query), _pend


def _cache_set(instance: Instance, a: Any) -> Asked:
    memory = instance.memory
    return instance.run().cache_set(memory.text(a[2], a[10]), memory.read(a[18], a[26]), signed(a[34])), _ok


def _cache_get(instance: Instance, a: Any) -> Asked:
    return instance.run().cache_get(instance.memory.text(a[2], a[10])), _pend


def _db_exec(instance: Instance, a: Any) -> Asked:
    variables = instance.take_variables()
    return instance.run().db_exec(signed(a[2]), instance.memory.text(a[10], a[18]), variables), _pend


def _get_static_file(instance: Instance, a: Any) -> Asked:
    return instance.run().get_static_file(instance.memory.text(a[2], a[10])), _pend


def _get_secret_value(instance: Instance, a: Any) -> Asked:
    return instance.run().get_secret_value(instance.memory.text(a[2], a[10])), _pend


def signed(number: int) -> int:
    """An i32 as the guest meant it."""
    return number - (1 << 32) if number >= 1 << 31 else number


def sync_callback(handler: SyncHandler, failed: Callable[[Instance, BaseException], int]) -> Any:
    """The C callback of a host function that answers at once. Its result takes the first argument's place."""

    def call(_: int, __: int, arguments: Any, ___: int) -> None:
        result = HOST_FAILED
        try:
            instance = current.instance
            assert instance is not None
            try:
                result = handler(instance, arguments)
            except BaseException as error:
                result = failed(instance, error)
            if clock.monotonic() > instance.engine.ticker.late_at:
                instance.engine.ticker.tick()
        except BaseException:
            result = HOST_FAILED
        arguments[0] = result & 0xFFFFFFFF

    return capi.SyncCallback(call)


SYNC: dict[str, Any] = {
    "log_msg": sync_callback(_log_msg, failed),
    "request_get_field": sync_callback(_request_get_field, failed),
    "request_set_field": sync_callback(_request_set_field, failed),
    "resp_set_header": sync_callback(_resp_set_header, _failed_plainly),
    "add_ffi_var": sync_callback(_add_ffi_var, _failed_plainly),
}
"""name → callback, of those that answer at once."""

ASYNC: dict[str, Any] = {
    "fetch_url": waiting.callback("fetch_url", _fetch_url, failed),
    "graphql_query": waiting.callback("graphql_query", _graphql_query, failed),
    "cache_set": waiting.callback("cache_set", _cache_set, _failed_plainly),
    "cache_get": waiting.callback("cache_get", _cache_get, failed),
    "db_exec": waiting.callback("db_exec", _db_exec, failed),
    "get_static_file": waiting.callback("get_static_file", _get_static_file, failed),
    "get_secret_value": waiting.callback("get_secret_value", _get_secret_value, failed),
}
"""name → callback, of those that may wait."""
