"""The cache and the databases as functions reach them: rules, names and counts are checked here, the proxy does the
rest."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NoReturn

from atmo_farm.capabilities.rules import Rules
from atmo_farm.directive.model import Query
from atmo_farm.errors import DataSourceError, HostError
from atmo_farm.ipc.client import Answer, ProxyClient
from atmo_farm.ipc.frames import Op

KINDS = ("insert", "select", "update", "delete")
"""db_exec's numbers, 0 to 3."""

SWAPPED = {"insert": "select", "select": "insert"}
"""The old TypeScript SDK took these two numbers for each other; the query's own type decides."""

HANDLER = 0
"""A consumer asks for one handler, the first of its hello."""


class DataSources:
    """What all runs of one consumer share."""

    def __init__(self, client: ProxyClient, rules: Rules, queries: Sequence[Query], has_databases: bool):
        self.client = client
        self.rules = rules
        self.queries: Mapping[str, Query] = {query.name: query for query in queries}
        self.has_databases = has_databases
        self._transactions = itertools.count(1)

    def for_call(self, deadline: float, transaction: bool) -> DataCalls:
        """The view of one run that may take until `deadline`; with `transaction`, its queries are all done or none."""
        return DataCalls(self, deadline, next(self._transactions) if transaction else 0)


class DataCalls:
    """One run's calls. Each answers with a future of the bytes for the guest, or raises HostError."""

    def __init__(self, sources: DataSources, deadline: float, transaction: int):
        self._sources = sources
        self._deadline = deadline
        self._transaction = transaction
        self._database = ""
        """The database that the transaction has begun on."""
        self._last: Answer | None = None
        """A guest asks for one thing at a time."""
        self._last_writes = False
        self._failure: DataSourceError | None = None

    def cache_get(self, key: str) -> Answer:
        """The value; the future fails with `key not found`."""
        if not self._sources.rules.cache_get:
            not_enabled()
        return self._ask(Op.CACHE_GET, (key,))

    def cache_set(self, key: str, value: bytes, ttl_s: int) -> Answer:
        """Keep a value; to do it twice is to do it once, so its outcome is never unknown."""
        if not self._sources.rules.cache_set:
            not_enabled()
        return self._ask(Op.CACHE_SET, (key, value, max(0, ttl_s)))

    def db_exec(self, kind: int, name: str, variables: list[tuple[str, bytes]]) -> Answer:
        """Run a named query."""
        sources = self._sources
        if not sources.rules.database or not sources.has_databases:
            not_enabled()
        query = sources.queries.get(name)
        if query is None:
            raise HostError(f"query not found: {name[:100]}")
        asked = KINDS[kind] if 0 <= kind < len(KINDS) else "unknown"
        if query.type not in (asked, SWAPPED.get(asked)):
            raise HostError(f"wrong type: the query {name} is of type {query.type}, not {asked}")
        if len(variables) != query.var_count:
            raise HostError(f"expected {query.var_count} variables, got {len(variables)}")
        begins = False
        if self._transaction:
            begins = not self._database
            if not begins and query.database != self._database:
                raise HostError(
                    f"the transaction runs on the database {self._database}, and {name} is a query of {query.database}"
                )
            self._database = query.database
        values = [value for _, value in variables]
        writes = query.type != "select"
        return self._ask(Op.QUERY, (name, values, self._transaction, begins), writes=writes)

    def failure(self) -> DataSourceError | None:
        """What the outcome of a run that failed follows from: a write of unknown outcome, else a transient failure.

        A write without an answer (the run was killed while it waited) is unknown too, but for one in a transaction:
        that is rolled back.
        """
        self._note_last()
        return self._failure

    async def commit(self) -> None:
        """End the transaction, if one has begun; DataSourceError, whose outcome may be unknown."""
        if self._database:
            await self._ask(Op.COMMIT, (self._database, self._transaction), writes=True)

    def rollback(self) -> None:
        """Have the transaction undone, if one has begun; nobody waits for that."""
        if self._database:
            self._sources.client.tell(Op.ROLLBACK, HANDLER, (self._database, self._transaction))

    def _ask(self, op: Op, arguments: Sequence[object], writes: bool = False) -> Answer:
        self._note_last()
        answer = self._sources.client.call(op, HANDLER, self._deadline, arguments, writes=writes)
        self._last, self._last_writes = answer, writes and (not self._transaction or op is Op.COMMIT)
        return answer

    def _note_last(self) -> None:
        """Remember how the last call failed, if it did."""
        answer, self._last = self._last, None
        if answer is None:
            return
        error: BaseException | None = None
        if answer.done() and not answer.cancelled():
            error = answer.exception()
        elif self._last_writes:
            error = DataSourceError("given up while it wrote: whether that was done is unknown", unknown=True)
        if isinstance(error, DataSourceError) and not (self._failure is not None and self._failure.unknown):
            if error.unknown and not self._last_writes:  # rolled back with its transaction
                error = DataSourceError(error.message, transient=True)
            if error.unknown or error.transient:
                self._failure = error


def not_enabled() -> NoReturn:
    """The answer of a capability that is off."""
    raise HostError("capability is not enabled")
