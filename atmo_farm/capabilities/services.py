"""What host functions do: the implementation of `runtime.services.Services` for one run of one function.

Of the ABI's families, request, response, log, results, cache, database and secrets are served. HTTP, GraphQL and static
files answer the guest with Atmo's own `capability is not enabled`: each becomes a backend behind its method here.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn, Protocol

from atmo_farm.capabilities.datasources import DataCalls, DataSources, not_enabled
from atmo_farm.capabilities.request import FieldType, Request
from atmo_farm.capabilities.rules import Rules
from atmo_farm.errors import DataSourceError, HostError
from atmo_farm.ipc.client import Answer

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

    def __init__(self, rules: Rules, log: GuestLog, data: DataSources | None = None):
        self.rules = rules
        self.log = log
        self.data = data
        """None where no function asks for data."""

    def for_call(
        self, function: str, request: Request, deadline: float = math.inf, transaction: bool = False
    ) -> CallServices:
        """The view of one run until `deadline` (clock.monotonic() seconds); `function` as the Directive writes it.

        With `transaction`, its queries are all done or none: `commit` or `rollback` must follow.
        """
        return CallServices(self, function, request, deadline, transaction)


class CallServices:
    """One run's view of the outside. `changes` and `headers` are what the run leaves behind for the sequence.

    A run may change as much as CHANGES_CAP says; then it gets an error text, or nothing where there is none.
    """

    _left = CHANGES_CAP
    _data: DataCalls | None = None
    changes: list[tuple[int, str, bytes]] | None = None
    headers: dict[str, str] | None = None

    def __init__(
        self, capabilities: Capabilities, function: str, request: Request, deadline: float, transaction: bool = False
    ):
        self._shared = capabilities
        self._function = function
        self._deadline = deadline
        self._transaction = transaction
        self.request = request

    @property
    def number(self) -> int:
        """The message's number in the crash ledger."""
        return self.request.number

    def log_msg(self, level: int, message: str) -> None:
        """Write the guest's line to the farm's log, marked as the guest's."""
        if self._shared.rules.logger:
            self._shared.log.line(level, message, self._function, self.request.id)

    def guest_output(self, text: str) -> None:
        """Each line that the guest printed is an info line; after LINES_CAP one says how many more there were."""
        if not self._shared.rules.logger:
            return
        lines = text.splitlines()
        for line in lines[:LINES_CAP]:
            self._shared.log.line(INFO, line, self._function, self.request.id)
        if len(lines) > LINES_CAP:
            more = f"… and {len(lines) - LINES_CAP} more lines"
            self._shared.log.line(INFO, more, self._function, self.request.id)

    def request_get_field(self, field: int, key: str) -> bytes:
        """A field of the request; empty where there is none."""
        if not self._shared.rules.get_field:
            not_enabled()
        return self.request.get(field, key)

    def request_set_field(self, field: int, key: str, value: bytes) -> None:
        """Change this run's own view now, and the sequence's request when the function has succeeded."""
        if not self._shared.rules.set_field:
            not_enabled()
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

    def cache_get(self, key: str) -> Answer:
        """The value of a key; `key not found`."""
        return self._calls().cache_get(key)

    def cache_set(self, key: str, value: bytes, ttl: int) -> Answer:
        """Keep a value for ttl seconds, or for ever."""
        return self._calls().cache_set(key, value, ttl)

    def db_exec(self, kind: int, name: str, variables: list[tuple[str, bytes]]) -> Answer:
        """Run a named query."""
        return self._calls().db_exec(kind, name, variables)

    def get_secret_value(self, key: str) -> bytes:
        """One of the Directive's secrets."""
        secrets = self._shared.rules.secrets
        if secrets is None:
            not_enabled()
        value = secrets.get(key)
        if value is None:
            raise HostError(f"secret is not allowed: {key[:100]}")
        return value.encode()

    def data_failure(self) -> DataSourceError | None:
        """What of its data calls decides the outcome of a run that failed; None: nothing of them."""
        return self._data.failure() if self._data is not None else None

    async def commit(self) -> None:
        """Do what the run's queries have changed for good; DataSourceError."""
        if self._data is not None:
            await self._data.commit()

    def rollback(self) -> None:
        """Undo what the run's queries have changed."""
        if self._data is not None:
            self._data.rollback()

    def _calls(self) -> DataCalls:
        if self._data is None:
            sources = self._shared.data
            if sources is None:
                not_enabled()
            self._data = sources.for_call(self._deadline, self._transaction)
        return self._data

    def not_enabled(self, *_: Any, **__: Any) -> NoReturn:
        """The answer of every family that this build does not serve."""
        not_enabled()

    fetch_url = graphql_query = get_static_file = not_enabled
