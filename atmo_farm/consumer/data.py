"""Which data sources a consumer needs, and how it waits for them before it takes its first message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec

from atmo_farm import clock
from atmo_farm.capabilities.rules import Rules
from atmo_farm.directive.model import Directive
from atmo_farm.errors import DataSourceError
from atmo_farm.ipc.client import ProxyClient
from atmo_farm.ipc.frames import Op
from atmo_farm.runtime.modules import CompiledModule

ASK_EVERY_S = 0.2
ANSWER_WITHIN_S = 5.0


def needed_sources(
    directive: Directive, functions: Iterable[str], modules: Mapping[str, CompiledModule]
) -> tuple[str, ...]:
    """The sources that these functions can ask and are allowed to, as the proxy names them. Which query a function runs
    shows only when it does, so one that runs any needs every database with queries."""
    rules = Rules.from_directive(directive.capabilities)
    imports = {name for function in functions for name in modules[function].imports}
    asks = {name.removeprefix("env ").removesuffix("_swift") for name in imports}
    needed = []
    if "db_exec" in asks and rules.database:
        databases = {query.database for query in directive.queries} & set(directive.connections.databases)
        needed += [f"database {name}" for name in sorted(databases)]
    allowed = {name for name, is_on in (("cache_get", rules.cache_get), ("cache_set", rules.cache_set)) if is_on}
    if asks & allowed and directive.connections.redis is not None:
        needed.append("redis")
    return tuple(needed)


async def wait_for_sources(client: ProxyClient, needed: tuple[str, ...], waiting: Callable[[str, str], None]) -> None:
    """Return when all are there; `waiting` is told name and reason of the first that is not, once for each change."""
    told = ("", "")
    while needed:
        try:
            answer = await client.call(Op.STATE, 0, clock.monotonic() + ANSWER_WITHIN_S, (list(needed),))
            problems = msgspec.msgpack.decode(answer, type=dict[str, str])
        except DataSourceError as error:
            problems = {"data sources": str(error)}
        if not problems:
            return
        first = next(iter(problems.items()))
        if first != told and first[1] != "not connected yet":
            told = first
            waiting(*first)
        await asyncio.sleep(ASK_EVERY_S)
