"""Where a PostgreSQL server is, how libpq is told, and how a failed attempt reads."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
import socket
import ssl
from collections.abc import Mapping

import attrs

from atmo_farm.datasource.complaint import without_secrets
from atmo_farm.directive.connections import DatabaseConnection, DatabaseTarget, Tls

CONNECT_TIMEOUT_S = 5.0

_DEFAULTS = {
    "client_encoding": "UTF8",
    "gssencmode": "disable",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
"""A peer that is gone without a word is noticed within 25 s."""

_OURS = frozenset(("host", "hostaddr", "port", "connect_timeout", "load_balance_hosts", "client_encoding"))


_NOT_SET = frozenset(("standard_conforming_strings", "client_encoding"))
_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


@attrs.frozen
class Place:
    """One host."""

    host: str
    """Its name; one that begins with a slash is the folder of a Unix socket."""
    port: int
    address: str = ""
    """Its numeric address, where the Directive gives it."""

    @property
    def is_socket(self) -> bool:
        """Whether it is on this machine, without a network."""
        return self.host.startswith(("/", "@"))

    def __str__(self) -> str:
        if self.is_socket:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class Target:
    """A `connections.database` of type postgresql, as it is reached."""

    parameters: Mapping[str, str] = attrs.field(repr=False)
    """libpq's, but for the place."""
    places: tuple[Place, ...]
    is_shuffled: bool
    settings: Mapping[str, str]
    """What the session is told after it has begun."""
    statement_timeout_ms: int
    """What the connection string says of it; 0: nothing."""
    connect_timeout_s: float
    secrets: tuple[str, ...] = attrs.field(repr=False)

    def in_order(self) -> list[Place]:
        """The places in the order in which they are tried."""
        return random.sample(self.places, len(self.places)) if self.is_shuffled else list(self.places)

    def told(self, place: Place, reason: str) -> str:
        """A reason with its place."""
        return f"{place}: {without_secrets(reason, self.secrets)}"


def target(connection: DatabaseConnection, application: str) -> Target:
    """From the model, whose references are resolved."""
    database = connection.target
    assert database is not None
    options = dict(database.options)
    who = {"user": database.user, "password": database.password, "dbname": database.database}
    given = {name: value for name, value in (options | who).items() if value and name not in _OURS}
    tls = _tls(connection.tls, given) if connection.tls is not None else {}
    hosts = ((database.socket, int(options.get("port", "5432"))),) if database.socket else database.hosts
    numbers = options.get("hostaddr", "").split(",")
    numbers = numbers if len(numbers) == len(hosts) else [""] * len(hosts)
    return Target(
        parameters={"application_name": application, **_DEFAULTS, **given, **tls},
        places=tuple(Place(host, port, number) for (host, port), number in zip(hosts, numbers, strict=True)),
        is_shuffled=options.get("load_balance_hosts") == "random",
        settings={name: value for name, value in database.settings.items() if name not in _NOT_SET},
        statement_timeout_ms=_milliseconds(database.settings.get("statement_timeout", "0")),
        connect_timeout_s=_connect_timeout_s(connection, database),
        secrets=tuple(filter(None, (database.password, options.get("sslpassword", "")))),
    )


async def addresses(place: Place) -> list[str]:
    """The numeric addresses of a host, an empty one for a Unix socket; OSError or UnicodeError when its name does not
    resolve."""
    if place.is_socket or place.address:
        return [place.address]
    try:
        return [str(ipaddress.ip_address(place.host))]
    except ValueError:
        pass
    found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _milliseconds(text: str) -> int:
    """As PostgreSQL reads it; 0 for what it would not, which it then says."""
    match = re.fullmatch(r"\s*(\d+)\s*(ms|s|min|h|d)?\s*", text, re.ASCII)
    return int(match[1]) * _UNITS[match[2] or "ms"] if match else 0


def _connect_timeout_s(connection: DatabaseConnection, database: DatabaseTarget) -> float:
    if isinstance(connection.connect_timeout_s, (int, float)):
        return float(connection.connect_timeout_s)
    try:
        given = int(database.options.get("connect_timeout", "0"))
    except ValueError:
        given = 0
    return float(given) if given > 0 else CONNECT_TIMEOUT_S


def _tls(tls: Tls, given: Mapping[str, str]) -> dict[str, str]:
    """libpq's options for the Directive's `tls`; the name that a certificate must hold is `host` for libpq, which is
    only a name here (the address is hostaddr)."""
    files = {"sslrootcert": str(tls.ca_file), "sslcert": str(tls.cert_file), "sslkey": str(tls.key_file)}
    chosen = {name: value for name, value in files.items() if value}
    if "sslrootcert" not in given and not tls.ca_file:
        chosen["sslrootcert"] = ssl.get_default_verify_paths().cafile or "system"
    chosen["sslmode"] = given.get("sslmode", "verify-full")
    if tls.server_name:
        chosen["host"] = str(tls.server_name)
    return chosen
