"""Where a MySQL server is, and how the driver is told."""

from __future__ import annotations

import math
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from atmo_farm.directive.connections import DatabaseConnection, DatabaseTarget, Tls
from atmo_farm.errors import CannotStart

CONNECT_TIMEOUT_S = 5.0

TlsMode = Literal["off", "preferred", "encrypted", "verified"]

_TLS_OF_GO: dict[str, TlsMode] = {
    "false": "off",
    "0": "off",
    "preferred": "preferred",
    "skip-verify": "encrypted",
    "true": "verified",
    "1": "verified",
}
_LOGINS = "mysql_native_password,caching_sha2_password,sha256_password,client_ed25519,parsec"
_LOGINS_IN_CLEAR = "mysql_clear_password,dialog"
_FOUND_ROWS = 2
_GO_DURATION = re.compile(r"(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+|0")
_GO_PIECE = re.compile(r"([\d.]+)([a-zµ]+)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_COLLATION = re.compile(r"(?:utf8(?:mb3)?|utf8mb4)_([a-z0-9_]+)")
_PLAIN_VALUE = re.compile(r"""'[^'\\]*'|"[^"\\]*"|-?\d+(?:\.\d+)?|\w+""", re.ASCII)
_ZONES = ("time_zone",)


@attrs.frozen
class Target:
    """A `connections.database` of type mysql, as it is reached."""

    arguments: Mapping[str, Any] = attrs.field(repr=False)
    """Of `_mysql.connect`, but for the timeouts; holds the password."""
    tls: TlsMode
    options_file: bytes
    """What the driver has no argument for, in its own file format."""
    greeting: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    """The first statements, and the DSN's option that each stands for."""
    connect_timeout_s: float
    read_timeout_s: float
    """How long a statement may take, as the DSN says; infinite when it does not."""
    write_timeout_s: float
    max_packet: float
    has_own_zone: bool
    """The DSN sets a time zone: times are told without one."""

    def why_not(self, within_s: float) -> str:
        """The system's reason why there is no connection; the driver tells a wrong one. It tries again, and blocks."""
        path = self.arguments.get("unix_socket")
        try:
            if path is None:
                socket.create_connection((self.arguments["host"], self.arguments["port"]), within_s).close()
            else:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(within_s)
                    probe.connect(path)
        except TimeoutError:
            return "no answer in time"
        except OSError as error:
            return (error.strerror or "no connection").lower()
        return "no connection"


def target(connection: DatabaseConnection, rows: int, row_bytes: int) -> Target:
    """Of a resolved connection; CannotStart names what of it cannot be used. `rows` and `row_bytes`: what an answer and
    one row of it may have."""
    where = "connections.database" if connection.name == "default" else f"connections.databases.{connection.name}"
    place = connection.target
    if place is None:
        raise TypeError("the connection string is not resolved")
    if not place.user:
        raise CannotStart(f"{where}: connectionString names no user")
    options = place.options
    try:
        mode, files = _tls(connection.tls, place)
        timeouts = {name: _seconds(name, options.get(name, "0")) for name in ("timeout", "readTimeout", "writeTimeout")}
        flags = _FOUND_ROWS if _is_true(options.get("clientFoundRows", "false")) else 0
        max_packet = _bytes("maxAllowedPacket", options.get("maxAllowedPacket", "0"))
    except ValueError as error:
        raise CannotStart(f"{where}: {error}") from None
    host, port = place.hosts[0] if place.hosts else ("", 0)
    connect_timeout_s = connection.connect_timeout_s
    assert connect_timeout_s is None or isinstance(connect_timeout_s, int | float)
    logins = _LOGINS if mode in ("off", "preferred") else f"{_LOGINS},{_LOGINS_IN_CLEAR}"
    return Target(
        arguments={
            # The driver takes `localhost` for the default Unix socket; by any other spelling it is a host.
            **({"unix_socket": place.socket} if place.socket else {"host": _loudly(host), "port": port}),
            "user": place.user,
            "password": place.password,
            **({"database": place.database} if place.database else {}),
            "charset": "utf8mb4",
            "client_flag": flags,
            "local_infile": 0,
            **({"ssl": files} if mode != "off" else {}),
            "ssl_mode": {"off": "DISABLED", "verified": "VERIFY_IDENTITY"}.get(mode, "REQUIRED"),
        },
        tls=mode,
        options_file=f"[client]\nmax-allowed-packet={row_bytes}\nrestricted-auth={logins}\n".encode(),
        greeting=(
            (f"SET NAMES utf8mb4{_collate(options.get('collation', ''))}", "collation"),
            (f"SET SESSION autocommit=1, SESSION sql_select_limit={rows + 1}, SESSION time_zone='+00:00'", ""),
            *((f"SET SESSION {name}={_value(value)}", name) for name, value in place.settings.items()),
        ),
        connect_timeout_s=connect_timeout_s or timeouts["timeout"] or CONNECT_TIMEOUT_S,
        read_timeout_s=timeouts["readTimeout"] or math.inf,
        write_timeout_s=timeouts["writeTimeout"] or math.inf,
        max_packet=max_packet or math.inf,
        has_own_zone=any(name in _ZONES for name in place.settings),
    )


def whole_seconds(seconds: float) -> int:
    """As the driver takes a timeout: 0 is none."""
    return 0 if math.isinf(seconds) else max(1, math.ceil(seconds))


def _tls(tls: Tls | None, place: DatabaseTarget) -> tuple[TlsMode, dict[str, str]]:
    given = place.options.get("tls", "false").lower()
    if tls is None and given not in _TLS_OF_GO:
        raise ValueError("the option `tls` of connectionString: known are true, false, skip-verify and preferred")
    mode = _TLS_OF_GO[given] if tls is None else "verified"
    if mode == "off":
        return mode, {}
    if place.socket:
        raise ValueError("tls: a Unix socket has no TLS; remove the key, or name a host")
    tls = tls or Tls()
    if tls.server_name and tls.server_name != place.hosts[0][0]:
        raise ValueError("tls.serverName: the driver checks for the host's own name; use it, or remove the key")
    for key, name in (("caFile", tls.ca_file), ("certFile", tls.cert_file), ("keyFile", tls.key_file)):
        _readable(key, str(name))
    files = {"ca": str(tls.ca_file), "cert": str(tls.cert_file), "key": str(tls.key_file or tls.cert_file)}
    if mode == "verified" and not tls.ca_file:
        paths = ssl.get_default_verify_paths()
        files |= {"ca": paths.cafile or "", "capath": paths.capath or ""}
    return mode, {name: file for name, file in files.items() if file}


def _readable(key: str, name: str) -> None:
    if name:
        try:
            with open(name, "rb"):  # noqa: PTH123
                pass
        except OSError as error:
            raise ValueError(f"tls.{key}: cannot read {name}: {(error.strerror or 'error').lower()}") from None


def _loudly(host: str) -> str:
    return host.upper() if host == "localhost" else host


def _collate(collation: str) -> str:
    match = _COLLATION.fullmatch(collation.lower())
    return f" COLLATE utf8mb4_{match[1]}" if match else ""


def _value(text: str) -> str:
    """A setting's value as SQL: Go's users write it as such, but one that is none is meant as a text."""
    if _PLAIN_VALUE.fullmatch(text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _seconds(option: str, text: str) -> float:
    """Of a duration as Go writes it: `30s`, `1m30s`, `500ms`."""
    if not _GO_DURATION.fullmatch(text):
        raise ValueError(f"the option `{option}` of connectionString is no duration, like 30s or 500ms")
    return sum(float(number) * _SECONDS[unit] for number, unit in _GO_PIECE.findall(text))


def _bytes(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ValueError(f"the option `{option}` of connectionString is no number of bytes")
    return int(text)


def _is_true(text: str) -> bool:
    return text.lower() in ("1", "t", "true")
