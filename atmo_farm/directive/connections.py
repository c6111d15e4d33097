"""The Directive's `connections` as Python objects, and values that are read when the farm starts. See model.py."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import attrs

from atmo_farm.errors import Position

NOWHERE = Position("")


def _without_password(addresses: object) -> str:
    """An address or several, for a repr: users and passwords inside of them left out."""
    return re.sub(r"//[^@/\s]*@", "//…@", repr(addresses))


@attrs.frozen
class Reference:
    """`env(NAME)`, `credential(NAME)` or `file(PATH)` as a whole value: read when the farm starts or reloads."""

    kind: Literal["env", "credential", "file"]
    name: str
    key: str = attrs.field(default="", eq=False, repr=False)
    """The key path that holds it, for problems."""
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.kind}({self.name})"


Value = str | Reference
"""A text of `connections`, `authentication` or a secret; after `references.resolve` it is a str, as all numbers and
truth values that may be references are just these."""


@attrs.frozen
class Tls:
    """TLS of a connection; the files are PEM."""

    ca_file: Value = ""
    cert_file: Value = ""
    key_file: Value = ""
    server_name: Value = ""
    handshake_first: bool | Reference = False


@attrs.frozen
class NatsConnection:
    """`connections.nats` (name `default`) or one of its named entries."""

    name: str
    server_addresses: tuple[Value, ...] = attrs.field(repr=_without_password)
    client_name: Value = ""
    user: Value = ""
    password: Value = attrs.field(default="", repr=False)
    token: Value = attrs.field(default="", repr=False)
    credentials_file: Value = ""
    nkey_seed_file: Value = ""
    inbox_prefix: Value = ""
    tls: Tls | None = None
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)


@attrs.frozen
class KafkaConnection:
    """`connections.kafka` or one of its named entries."""

    name: str
    broker_addresses: tuple[Value, ...] = attrs.field(repr=_without_password)
    client_id: Value = ""
    security_protocol: Value = ""
    sasl_mechanism: Value = ""
    sasl_username: Value = ""
    sasl_password: Value = attrs.field(default="", repr=False)
    tls: Tls | None = None
    driver: str = "auto"
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)


@attrs.frozen
class RedisConnection:
    """`connections.redis`."""

    server_address: Value = attrs.field(repr=_without_password)
    username: Value = ""
    password: Value = attrs.field(default="", repr=False)
    database: int | Reference = 0
    key_prefix: Value = ""
    tls: Tls | None = None
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)


@attrs.frozen
class DatabaseTarget:
    """A connection string, parsed: where the database is and how to speak to it."""

    hosts: tuple[tuple[str, int], ...] = ()
    """(host, port) pairs, to be tried in this order; empty where `socket` or `path` says it."""
    socket: str = ""
    """A Unix socket: its folder for PostgreSQL, its path for MySQL."""
    path: str = ""
    """SQLite: the database's file."""
    user: str = ""
    password: str = attrs.field(default="", repr=False)
    database: str = ""
    options: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """What the driver takes, by its own names (libpq keywords, Go driver parameters); may hold secrets."""
    settings: Mapping[str, str] = attrs.field(factory=dict)
    """What the server is to be told for the session: `search_path`, `sql_mode`, …"""
    ignored: tuple[str, ...] = ()
    """Options that only Atmo's drivers knew."""


@attrs.frozen
class DatabaseConnection:
    """`connections.database` (name `default`) or one of `connections.databases`."""

    name: str
    type: Literal["postgresql", "mysql", "sqlite"]
    connection_string: Value = attrs.field(repr=False)
    target: DatabaseTarget | None = None
    """The parsed connection string; None while that is a reference."""
    pool_size: int | Reference | None = None
    connect_timeout_s: float | Reference | None = None
    statement_timeout_s: float | Reference | None = None
    idle_timeout_s: float | Reference | None = None
    tls: Tls | None = None
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)


@attrs.frozen
class Connections:
    """All connections of a Directive, by their names."""

    nats: Mapping[str, NatsConnection] = attrs.field(factory=dict)
    kafka: Mapping[str, KafkaConnection] = attrs.field(factory=dict)
    redis: RedisConnection | None = None
    databases: Mapping[str, DatabaseConnection] = attrs.field(factory=dict)
