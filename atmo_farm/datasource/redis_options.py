"""A Directive's Redis connection in a client's terms, and Redis's errors in an operator's terms.

Redis quotes what it was sent in some of its error texts, so no text of its is passed on: an error's first word, its
code, says what it is.
"""

from __future__ import annotations

import os
import re
import ssl
from urllib.parse import unquote, urlsplit

import attrs

from atmo_farm.datasource.errors import CallFailed, TransientFailure
from atmo_farm.directive import addresses
from atmo_farm.directive.connections import RedisConnection, Reference, Tls, Value
from atmo_farm.errors import CannotStart

WHERE = "connections.redis"

Command = tuple[str | bytes, ...]

READ_ONLY = "READONLY"

_LATER = {
    "LOADING": "it is loading its data",
    "BUSY": "a script keeps it busy",
    "OOM": "its memory is full",
    READ_ONLY: "it is a read-only replica",
    "MISCONF": "it cannot save its data and takes no writes",
    "MASTERDOWN": "it is a replica without its master",
    "NOREPLICAS": "it has too few replicas to take writes",
    "CLUSTERDOWN": "its cluster is down",
    "TRYAGAIN": "its cluster is moving this key",
    "NOAUTH": "it asks for a password",
    "WRONGPASS": "it does not accept the user and password",
    "DENIED": "it is in protected mode and refuses other machines",
}
"""Codes of what another time, or an operator, puts right; nothing was done."""

_NEVER = {
    "WRONGTYPE": "the key holds something that is not a string",
    "NOPERM": "its user has no permission for this",
    "MOVED": "it is one node of a cluster, and the key is on another; give the address of a single server",
    "ASK": "it is one node of a cluster, and the key is on another; give the address of a single server",
}
_CODE = re.compile(r"[A-Z]{2,20}(?=[ ]|\Z)", re.ASCII)
_TOO_MANY_CLIENTS = "ERR max number of clients reached"


@attrs.frozen
class RedisOptions:
    """Where the server is and how a connection to it begins."""

    path: str
    """Of its Unix socket; empty: `host` and `port`."""
    host: str
    port: int
    tls: ssl.SSLContext | None
    server_name: str
    """The name that its certificate must hold."""
    greeting: tuple[tuple[Command, str], ...] = attrs.field(repr=False)
    """The first commands, and what it means when they are refused; an empty meaning: never mind."""
    key_prefix: str


def options(connection: RedisConnection, client_name: str) -> RedisOptions:
    """The options of a resolved connection; CannotStart names the key that cannot be used as it is.

    User, password and database number may stand in the address too; the keys of their own go before those.
    """
    try:
        url = urlsplit(addresses.redis(_text(connection.server_address)))
    except ValueError as error:
        raise CannotStart(f"{WHERE}: serverAddress {error}") from error
    is_socket = url.scheme == "unix"
    wants_tls = connection.tls is not None or url.scheme == "rediss"
    if is_socket and wants_tls:
        raise CannotStart(f"{WHERE}: tls: a Unix socket has no TLS; remove the key, or give a host")
    in_address = "" if is_socket else url.path.strip("/")
    database = _number(connection.database) or int(in_address or 0)
    host = url.hostname or ""
    tls = connection.tls or Tls()
    return RedisOptions(
        path=url.path if is_socket else "",
        host=host,
        port=url.port or 0,
        tls=_tls(tls) if wants_tls else None,
        server_name=_text(tls.server_name) or host,
        greeting=(
            *_login(_text(connection.username), _text(connection.password), url.username, url.password),
            *([(("SELECT", str(database)), f"it has no database {database}")] if database else []),
            (("CLIENT", "SETNAME", client_name), ""),
        ),
        key_prefix=_text(connection.key_prefix),
    )


def failure(text: str) -> CallFailed:
    """What an error reply means for its call."""
    code = _code(text)
    if code in _LATER:
        return TransientFailure(f"redis: {_LATER[code]} ({code})")
    return CallFailed(f"redis: {_NEVER[code]} ({code})" if code in _NEVER else f"redis: error {code}")


def is_read_only(text: str) -> bool:
    """Whether an error reply says that the master is elsewhere by now."""
    return _code(text) == READ_ONLY


def refusal(text: str, meaning: str) -> str:
    """What an error reply to a command of the greeting means; empty: never mind."""
    code = _code(text)
    if text == _TOO_MANY_CLIENTS:
        return "it has as many clients as it takes"
    if code in _LATER:
        return f"{_LATER[code]} ({code})"
    return f"{meaning} ({code})" if meaning else ""


def reason(error: BaseException | None) -> str:
    """Why a connection could not be made, or broke."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'protocol error'}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "the server closed the connection"


def _code(text: str) -> str:
    found = _CODE.match(text)
    return found[0] if found else "unknown"


def _login(user: str, password: str, url_user: str | None, url_password: str | None) -> list[tuple[Command, str]]:
    """AUTH, in its old form when no user is given: servers before 6 know only that."""
    user = user or unquote(url_user or "")
    password = password or unquote(url_password or "")
    if not (user or password):
        return []
    command = ("AUTH", user, password) if user else ("AUTH", password)
    return [(command, "it does not accept the user and password")]


def _tls(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=_text(tls.ca_file) or None)
        if tls.cert_file:
            # Without a password OpenSSL would ask for it on the terminal.
            context.load_cert_chain(_text(tls.cert_file), _text(tls.key_file) or None, password="")
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(_text(file) for file in (tls.ca_file, tls.cert_file, tls.key_file) if file)
        raise CannotStart(f"{WHERE}: tls: cannot use {files}: {reason(error)}") from error
    return context


def _number(value: int | Reference) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value} is not resolved")
    return value


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value} is not resolved")
    return value
