"""Which source a call is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atmo_farm.datasource.base import Source
from atmo_farm.datasource.call import Call
from atmo_farm.datasource.errors import CallFailed
from atmo_farm.ipc.frames import Op, encode


class Sources:
    """The cache, the databases by their names, and which database each query runs on."""

    def __init__(self, cache: Source, databases: Mapping[str, Source], queries: Mapping[str, str]):
        self._cache = cache
        self._databases = databases
        self._queries = queries
        self._all = {source.name: source for source in (cache, *databases.values())}

    async def open(self) -> None:
        """Begin to connect."""
        for source in self._all.values():
            await source.open()

    def execute(self, call: Call) -> None:
        """Hand a call to its source."""
        source = self._source(call.op, call.arguments)
        if source is not None:
            source.execute(call)
        elif call.op is Op.STATE:
            call.answer(encode(self._problems(call.arguments[0])))
        elif call.op is Op.QUERY:
            call.fail(CallFailed(f"query not found: {call.arguments[0][:100]}"))
        else:
            call.fail(CallFailed(f"there is no database {call.arguments[0][:100]}"))

    def cancel(self, call: Call) -> None:
        """The call was given up."""
        source = self._source(call.op, call.arguments)
        if source is not None:
            source.cancel(call)

    def forget(self, client: object) -> None:
        """This client is gone."""
        for source in self._all.values():
            source.forget(client)

    async def close(self) -> None:
        """End them all."""
        for source in self._all.values():
            await source.close()

    def _source(self, op: Op, arguments: tuple[Any, ...]) -> Source | None:
        if op is Op.CACHE_GET or op is Op.CACHE_SET:
            return self._cache
        if op is Op.QUERY:
            return self._databases.get(self._queries.get(arguments[0], ""))
        return self._databases.get(arguments[0]) if op in (Op.COMMIT, Op.ROLLBACK) else None

    def _problems(self, names: list[str]) -> dict[str, str]:
        """Why those that are not ready are out of reach."""
        found = {name: source.problem() for name in names if (source := self._all.get(name)) is not None}
        return {name: problem for name, problem in found.items() if problem}
