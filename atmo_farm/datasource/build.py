"""From a Directive and the settings to the sources of this process."""

from __future__ import annotations

import math
from typing import TypeVar

import attrs

from atmo_farm.datasource.base import Backend, Limits, Source
from atmo_farm.datasource.memory import MemoryCache
from atmo_farm.datasource.pool import Pool, PoolOptions
from atmo_farm.datasource.sources import Sources
from atmo_farm.datasource.statement import prepare
from atmo_farm.directive.connections import DatabaseConnection, Reference
from atmo_farm.directive.model import Directive
from atmo_farm.settings import DataSourceSettings

T = TypeVar("T")


def sources(directive: Directive, settings: DataSourceSettings) -> Sources:
    """All sources, not yet open; on the running loop. CannotStart when a driver is not installed."""
    databases = {
        name: database(directive, connection, settings) for name, connection in directive.connections.databases.items()
    }
    return Sources(cache(directive, settings), databases, {query.name: query.database for query in directive.queries})


def cache(directive: Directive, settings: DataSourceSettings) -> Source:
    """Redis where the Directive names one, else memory."""
    redis = directive.connections.redis
    if redis is None:
        return MemoryCache(settings.cache_size)
    from atmo_farm.datasource.redis import RedisCache

    name = f"atmo-farm/{directive.identifier}"
    return RedisCache(
        redis, timeout_s=settings.redis_timeout_s, connect_timeout_s=settings.connect_timeout_s, client_name=name
    )


def database(directive: Directive, connection: DatabaseConnection, settings: DataSourceSettings) -> Pool:
    """The pool of one database with its queries."""
    size = resolved(connection.pool_size) or settings.pool_size
    statements = {
        query.name: prepare(query, connection.type) for query in directive.queries if query.database == connection.name
    }
    options = PoolOptions(
        size=size,
        quota=max(1, math.floor(size * settings.share)),
        statement_timeout_s=resolved(connection.statement_timeout_s) or settings.statement_timeout_s,
        idle_timeout_s=resolved(connection.idle_timeout_s) or settings.idle_timeout_s,
        slow_query_s=settings.slow_query_s or None,
        comment=f"app={directive.identifier}" if settings.comments else "",
    )
    return Pool(f"database {connection.name}", backend(directive, connection, settings), statements, options)


def with_settings(connection: DatabaseConnection, settings: DataSourceSettings) -> DatabaseConnection:
    """The connection with the settings' pool size and connect timeout, unless it (for the timeout: or its connection
    string) has its own."""
    connection = attrs.evolve(connection, pool_size=connection.pool_size or settings.pool_size)
    options = connection.target.options if connection.target is not None else {}
    if connection.connect_timeout_s is not None or {"connect_timeout", "timeout"} & options.keys():
        return connection
    return attrs.evolve(connection, connect_timeout_s=settings.connect_timeout_s)


def resolved(value: T | Reference) -> T:
    """A value of a Directive whose references are resolved."""
    if isinstance(value, Reference):
        raise TypeError(f"{value} is not resolved")
    return value


def backend(directive: Directive, connection: DatabaseConnection, settings: DataSourceSettings) -> Backend:
    """The driver of one database. CannotStart when it is not installed."""
    connection = with_settings(connection, settings)
    limits = Limits(settings.max_rows, settings.max_result_size)
    application = f"atmo-farm/{directive.identifier}"
    if connection.type == "postgresql":
        from atmo_farm.datasource.postgresql import PostgresBackend

        return PostgresBackend(connection, limits, application)
    if connection.type == "mysql":
        from atmo_farm.datasource.mysql import MySqlBackend

        return MySqlBackend(connection, limits, application)
    from atmo_farm.datasource.sqlite import SqliteBackend

    return SqliteBackend(connection, limits)
