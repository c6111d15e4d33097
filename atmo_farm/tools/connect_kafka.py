"""What `check --connect` asks a Kafka cluster: may its user do with topics and groups what the handlers need?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Literal, Protocol

from atmo_farm.directive.connections import KafkaConnection
from atmo_farm.directive.model import Directive, Handler
from atmo_farm.errors import CannotStart, Position
from atmo_farm.streams.kafka import admin
from atmo_farm.streams.kafka.driver import BrokerRefused, BrokerUnavailable
from atmo_farm.streams.kafka.options import Options, options


class Tell(Protocol):
    """Takes a problem."""

    def __call__(
        self, position: Position, key: str, message: str, severity: Literal["error", "warning"] = "error"
    ) -> None:
        """Note it."""


async def attempt(directive: Directive, connection: KafkaConnection, tell: Tell) -> None:
    """Connect; tell topics that are missing, rights that are, and workers that would have nothing to do."""
    key = "connections.kafka" if connection.name == "default" else f"connections.kafka.{connection.name}"
    try:
        given = options(connection, "atmo-farm check")
        await asyncio.get_running_loop().run_in_executor(None, _try, directive, connection.name, key, given, tell)
    except CannotStart as error:
        tell(connection.position, key, str(error))
    except (BrokerUnavailable, BrokerRefused) as error:
        tell(connection.position, key, f"cannot be used: {error}")


def _try(directive: Directive, name: str, key: str, given: Options, tell: Tell) -> None:
    there = admin.topics(given)
    user = repr(given.username or "this user")
    for handler in directive.handlers:
        at, where = handler.position, f"handlers: {handler.name}"
        for topic, right in _needs(handler, name):
            if topic not in there:
                tell(at, where, f"{key} has no topic {topic!r}, or this user may not see it; create it")
            elif right not in there[topic].rights:
                tell(at, where, f"{key}: {user} may not {right.lower()} topic {topic!r}; grant it")
        if (handler.source, handler.connection) != ("kafka", name):
            continue
        if not admin.may_join(given, handler.group):
            tell(at, where, f"{key}: {user} may not read with consumer group {handler.group!r}; grant it")
        dead = handler.dead_letter.resource if handler.dead_letter else ""
        if dead in there and "WRITE" not in there[dead].rights:
            tell(at, where, f"{key}: {user} may not write topic {dead!r}, for dead letters; grant it")
        elif dead and dead not in there and (why := admin.may_create(given, dead)):
            message = f"{key}: topic {dead!r}, for dead letters, is not there and cannot be made ({why}); create it"
            tell(at, where, message)
        prefix = f"{directive.identifier}.{handler.name}."
        if handler.exactly_once and not admin.may_transact(given, f"{prefix}check"):
            tell(at, where, f"{key}: {user} may not write transactional ids that begin with {prefix!r}; grant it")
        partitions = there[handler.resource].partitions if handler.resource in there else handler.workers
        if handler.workers > partitions:
            message = (
                f"{handler.workers} workers, and topic {handler.resource!r} has {partitions} partitions: a worker "
            )
            tell(at, where, message + "without a partition has nothing to do", "warning")


def _needs(handler: Handler, connection: str) -> Iterator[tuple[str, str]]:
    """Topics that have to be there, with what is done with each."""
    if (handler.source, handler.connection) == ("kafka", connection):
        yield handler.resource, "READ"
    answer = handler.respond_to
    if answer is not None and (answer.source, answer.connection) == ("kafka", connection):
        yield answer.resource, "WRITE"
