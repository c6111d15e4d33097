"""What host functions do: the implementation of `runtime.services.Services` for one run of one function.

Of the ABI's families, request, response, log and results are served. Cache, database, HTTP, GraphQL, static files and
secrets answer the guest with Atmo's own `capability is not enabled`: each becomes a backend behind its method here.
"""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

from atmo_farm.capabilities.request import FieldType, Request
from atmo_farm.capabilities.rules import Rules
from atmo_farm.errors import HostError

CHANGES_CAP = 32 << 20
"""Bytes of all fields and headers that one run sets, each counted with CHANGE_COST more, a field of the body with the
whole body: what is kept until the run has ended, and done once more for the sequence, in one go."""

CHANGE_COST = 32 << 10
"""So about 1,000 changes."""

INFO = 3

LINES_CAP = 1000
"""Lines of one run's output that are written to the log."""


class GuestLog(Protocol):
    """Where a function's own lines go."""

    def line(self, level: int, text: str, function: str, request_id: str) -> None:
        """One log_msg; level as in the ABI (error 1, warn 2, info 3, debug 4)."""


class Capabilities:
    """What the functions of one handler can reach; made once per process."""

    def __init__(self, rules: Rules, log: GuestLog):
        self.rules = rules
        self.log = log

    def for_call(self, function: str, request: Request) -> CallServices:
        """The view of one run; `function` as the Directive writes it, for log lines."""
        return CallServices(self.rules, self.log, function, request)


class CallServices:
    """One run's view of the outside. `changes` and `headers` are what the run leaves behind for the sequence.

    A run may change as much as CHANGES_CAP says; then it gets an error text, or nothing where there is none.
    """

    _left = CHANGES_CAP

    def __init__(self, rules: Rules, log: GuestLog, function: str, request: Request):
        self._rules = rules
        self._log = log
        self._function = function
        self.request = request
        self.changes: list[tuple[int, str, bytes]] | None = None
        self.headers: dict[str, str] | None = None

    def log_msg(self, level: int, message: str) -> None:
        """Write the guest's line to the farm's log, marked as the guest's."""
        if self._rules.logger:
            self._log.line(level, message, self._function, self.request.id)

    def guest_output(self, text: str) -> None:
        """Each line that the guest printed is an info line; after LINES_CAP one says how many more there were."""
        if not self._rules.logger:
            return
        lines = text.splitlines()
        for line in lines[:LINES_CAP]:
            self._log.line(INFO, line, self._function, self.request.id)
        if len(lines) > LINES_CAP:
            more = f"… and {len(lines) - LINES_CAP} more lines"
            self._log.line(INFO, more, self._function, self.request.id)

    def request_get_field(self, field: int, key: str) -> bytes:
        """A field of the request; empty where there is none."""
        if not self._rules.get_field:
            _not_enabled()
        return self.request.get(field, key)

    def request_set_field(self, field: int, key: str, value: bytes) -> None:
        """Change this run's own view now, and the sequence's request when the function has succeeded."""
        if not self._rules.set_field:
            _not_enabled()
        self._charge(len(key) + len(value) + (len(self.request.body) if field == FieldType.BODY else 0))
        if self.changes is None:
            self.request = self.request.copy()
            self.changes = []
        self.request.set(field, key, value)
        self.changes.append((field, key, value))

    def resp_set_header(self, key: str, value: str) -> None:
        """A header of the outgoing message; the last function that sets it wins."""
        self._charge(len(key) + len(value))
        if self.headers is None:
            self.headers = {}
        self.headers[key] = value

    def _charge(self, size: int) -> None:
        self._left -= size + CHANGE_COST
        if self._left < 0:
            raise HostError("too many changes in one run")

    def not_enabled(self, *_: Any, **__: Any) -> NoReturn:
        """The answer of every family that this build does not serve."""
        _not_enabled()

    fetch_url = graphql_query = cache_set = cache_get = db_exec = get_static_file = get_secret_value = not_enabled


def _not_enabled() -> NoReturn:
    raise HostError("capability is not enabled")
