"""Which source a call is for."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from atmo_farm.datasource.base import Source
from atmo_farm.datasource.call import Call
from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.memory import MemoryCache
from atmo_farm.ipc import gauges
from atmo_farm.ipc.frames import Op, encode

_CACHE_GET, _CACHE_SET, _STATE, _QUERY = Op.CACHE_GET, Op.CACHE_SET, Op.STATE, Op.QUERY


class Sources:
    """The cache, the databases by their names, and which database each query runs on."""

    def __init__(self, cache: Source, databases: Mapping[str, Source], queries: Mapping[str, str]):
        self._cache = cache
        self._databases = databases
        self._queries = queries
        self.get_at_once = cache.get if isinstance(cache, MemoryCache) else None
        """A value of a cache that is in this process, without a Call; None where it is elsewhere."""
        self._outages_before: dict[int, int] = {}
        self._all = {source.name: source for source in (cache, *databases.values())}

    async def open(self) -> None:
        """Begin to connect."""
        for source in self._all.values():
            await source.open()

    def execute(self, call: Call) -> None:
        """Hand a call to its source."""
        op = call.op
        if op is _CACHE_GET or op is _CACHE_SET:
            self._cache.execute(call)
        elif op is _STATE:
            call.answer(encode(self._problems(call.arguments[0])))
        elif (source := self._database(call)) is not None:
            source.execute(call)
        else:
            what = "query not found:" if op is _QUERY else "there is no database"
            call.fail(CallFailed(f"{what} {call.arguments[0][:100]}"))

    def cancel(self, call: Call) -> None:
        """The call was given up."""
        if call.op is _CACHE_GET or call.op is _CACHE_SET:
            self._cache.cancel(call)
        elif (source := self._database(call)) is not None:
            source.cancel(call)

    def forget(self, client: object) -> None:
        """This client is gone."""
        for source in self._all.values():
            source.forget(client)

    def write_figures(self, slot: memoryview) -> None:
        """How each source is, into the proxy's arena slot, in which those of this slot's earlier processes count on."""
        for place, source in enumerate(self._all.values()):
            figures = source.figures()
            if place not in self._outages_before:
                self._outages_before[place] = gauges.outages(slot, place)
            outages = self._outages_before[place] + figures.outages
            gauges.write_source(slot, place, attrs.evolve(figures, outages=outages))

    async def close(self) -> None:
        """End them all."""
        for source in self._all.values():
            await source.close()

    def _database(self, call: Call) -> Source | None:
        """Of a QUERY, COMMIT or ROLLBACK."""
        name = call.arguments[0]
        return self._databases.get(self._queries.get(name, "") if call.op is _QUERY else name)

    def _problems(self, names: list[str]) -> dict[str, str]:
        """Why those that are not ready are out of reach."""
        found = {name: source.problem() for name in names if (source := self._all.get(name)) is not None}
        return {name: problem for name, problem in found.items() if problem}
