"""The values of a resolved Directive that no log line may hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from atmo_farm.directive.model import Directive

_IN_ADDRESS = re.compile(r"//(?:[^@/:\s]*:)?([^@/\s]+)@")
"""A password, or what stands alone before the host: NATS' token."""

LONG = 8
"""A user's or a client's name that came from elsewhere is a secret from so many characters on: shorter ones stand in
other words."""


def secrets(directive: Directive) -> tuple[str, ...]:
    """Passwords, tokens, connection strings, authorization values, what functions may ask for, and all other texts that
    `env(…)`, `credential(…)` and `file(…)` stood for, each once."""
    return tuple(dict.fromkeys(value for value in _values(directive) if isinstance(value, str) and value))


def _values(directive: Directive) -> Iterator[Any]:
    connections = directive.connections
    for nats in connections.nats.values():
        yield from (nats.password, nats.token)
        yield from _in_addresses(*nats.server_addresses)
    for kafka in connections.kafka.values():
        yield kafka.sasl_password
        yield from _in_addresses(*kafka.broker_addresses)
    if connections.redis is not None:
        yield connections.redis.password
        yield from _in_addresses(connections.redis.server_address)
    for database in connections.databases.values():
        if database.target is not None:
            yield from (database.target.password, database.target.options.get("sslpassword"))
        if database.type != "sqlite":
            yield database.connection_string
    for _, value in directive.authentication.values():
        yield value
    for header in ((directive.capabilities.get("auth") or {}).get("headers") or {}).values():
        yield header.get("value")
    yield from ((directive.capabilities.get("secrets") or {}).get("values") or {}).values()
    yield from (text for text in directive.referred if len(text) >= LONG)


def _in_addresses(*addresses: Any) -> Iterator[str]:
    for address in addresses:
        if isinstance(address, str):
            for found in _IN_ADDRESS.findall(address):
                yield from (found, unquote(found))
