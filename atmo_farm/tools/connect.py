"""What `check --connect` adds: every connection is tried, and every query prepared on its database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Literal

from atmo_farm.datasource import build
from atmo_farm.datasource.errors import Unreachable
from atmo_farm.datasource.redis import RedisCache
from atmo_farm.datasource.statement import prepare
from atmo_farm.directive.connections import DatabaseConnection, NatsConnection
from atmo_farm.directive.model import Directive
from atmo_farm.errors import CannotStart, Position, Problem
from atmo_farm.settings import DataSourceSettings
from atmo_farm.streams.nats import NatsStream
from atmo_farm.tools import connect_kafka
from atmo_farm.tools.connect_kafka import Tell


def problems(directive: Directive, settings: DataSourceSettings) -> list[Problem]:
    """What is wrong with the connections and queries of a resolved Directive; all are tried at the same time."""
    import uvloop

    found: list[Problem] = []

    def tell(position: Position, key: str, message: str, severity: Literal["error", "warning"] = "error") -> None:
        found.append(Problem(position, key, message, severity))

    uvloop.run(_try_all(directive, settings, tell))
    return found


async def _try_all(directive: Directive, settings: DataSourceSettings, tell: Tell) -> None:
    attempts: list[Awaitable[None]] = [
        _nats(connection, settings.connect_timeout_s, tell) for connection in directive.connections.nats.values()
    ]
    attempts += [
        _database(directive, connection, settings, tell) for connection in directive.connections.databases.values()
    ]
    attempts += [
        connect_kafka.attempt(directive, connection, tell) for connection in directive.connections.kafka.values()
    ]
    if directive.connections.redis is not None:
        attempts.append(_redis(directive, settings, tell))
    await asyncio.gather(*attempts)


class _Told:
    """What a stream says while it tries to connect (`streams.base.StreamEvents`)."""

    reason = "no answer in time"

    def waiting(self, connection: str, reason: str) -> None:  # noqa: ARG002
        """Keep the reason."""
        self.reason = reason

    def connected(self) -> None:
        """Nothing to keep."""

    def dropped(self, count: int) -> None:
        """Nothing is received."""

    def closed(self, reason: str) -> None:
        """Keep the reason."""
        self.reason = reason


async def _nats(connection: NatsConnection, timeout_s: float, tell: Tell) -> None:
    told = _Told()
    key = "connections.nats" if connection.name == "default" else f"connections.nats.{connection.name}"
    try:
        stream = NatsStream(connection, "atmo-farm.check", group=None, client_name="atmo-farm check", events=told)
    except CannotStart as error:
        tell(connection.position, key, str(error))
        return
    try:
        async with asyncio.timeout(timeout_s):
            await stream.open()
    except TimeoutError:
        tell(connection.position, key, f"is out of reach: {told.reason}")
    finally:
        await stream.close()


async def _redis(directive: Directive, settings: DataSourceSettings, tell: Tell) -> None:
    redis = directive.connections.redis
    assert redis is not None
    cache = build.cache(directive, settings)
    assert isinstance(cache, RedisCache)
    try:
        await cache.ping()
    except Unreachable as error:
        tell(redis.position, "connections.redis", f"is out of reach: {error}")
    finally:
        await cache.close()


async def _database(
    directive: Directive, connection: DatabaseConnection, settings: DataSourceSettings, tell: Tell
) -> None:
    default = connection.name == "default"
    key = "connections.database" if default else f"connections.databases.{connection.name}"
    try:
        backend = build.backend(directive, connection, settings)
    except CannotStart as error:
        tell(connection.position, key, str(error))
        return
    try:
        opened = backend.connection()
        try:
            await opened.open()
        finally:
            opened.close()
        for query in directive.queries:
            if query.database == connection.name:
                complaint = await backend.check(prepare(query, connection.type))
                if complaint:
                    tell(query.position, f"queries: {query.name}", f"{key} refuses it: {complaint}")
    except Unreachable as error:
        tell(connection.position, key, f"is out of reach: {error}")
    finally:
        await backend.close()
