"""Connection strings of databases, in the forms that Atmo's drivers (pgx, go-sql-driver) took.

ValueErrors never hold any part of the text: it holds a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from atmo_farm.directive.connections import DatabaseTarget


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LIBPQ = _words(
    "host hostaddr port dbname user password passfile require_auth channel_binding connect_timeout client_encoding "
    "options application_name fallback_application_name keepalives keepalives_idle keepalives_interval "
    "keepalives_count tcp_user_timeout replication gssencmode sslmode requiressl sslnegotiation sslcompression sslcert "
    "sslkey sslpassword sslcertmode sslrootcert sslcrl sslcrldir sslsni requirepeer ssl_min_protocol_version "
    "ssl_max_protocol_version krbsrvname gsslib gssdelegation service target_session_attrs load_balance_hosts"
)
_PGX_ONLY = _words(
    "pool_max_conns pool_min_conns pool_min_idle_conns pool_max_conn_lifetime pool_max_conn_lifetime_jitter "
    "pool_max_conn_idle_time pool_health_check_period statement_cache_capacity statement_cache_mode "
    "description_cache_capacity default_query_exec_mode prefer_simple_protocol min_read_buffer_size"
)
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_GO_MYSQL = _words(
    "charset collation timeout readTimeout writeTimeout tls maxAllowedPacket clientFoundRows connectionAttributes"
)
_GO_MYSQL_ONLY = _words(
    "allowAllFiles allowCleartextPasswords allowFallbackToPlaintext allowNativePasswords allowOldPasswords "
    "checkConnLiveness columnsWithAlias compress interpolateParams loc multiStatements parseTime rejectReadOnly "
    "serverPubKey timeTruncate"
)
_SQLITE_MODES = ("ro", "rw", "rwc", "memory")
MAX_CHARACTERS = 8192
_MYSQL_SERVER = re.compile(r"(tcp[46]?|unix)?(?:\(([^()]*)\))?")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*", re.ASCII)


def parse(database: str, text: str) -> DatabaseTarget:
    """The checked form of a connection string for a database type; ValueError says what is wrong, without the text."""
    if not text.strip() or not text.isprintable():
        raise ValueError("must be one line of text that is not empty")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"is longer than {MAX_CHARACTERS:,} characters")
    if database == "postgresql":
        return _postgresql(text.strip())
    if database == "mysql":
        return _mysql(text.strip())
    return _sqlite(text.strip())


def _postgresql(text: str) -> DatabaseTarget:
    given = _postgresql_url(text) if "://" in text.partition("=")[0] else _key_values(text)
    if given.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError("has an unknown `sslmode`; known are " + ", ".join(_SSL_MODES))
    ports = [_port(port or "5432") for port in given.pop("port", "5432").split(",")]
    names = given.pop("host", "").split(",")
    if len(ports) not in (1, len(names)):
        raise ValueError("names a different number of ports than of hosts")
    ports = ports * len(names) if len(ports) == 1 else ports
    socket = names[0] if names[0].startswith(("/", "@")) else ""
    if socket and ports[0] != 5432:
        given["port"] = str(ports[0])  # the number is a part of the socket's name
    user, password, database = given.pop("user", ""), given.pop("password", ""), given.pop("dbname", "")
    return DatabaseTarget(
        hosts=() if socket else tuple((name or "localhost", port) for name, port in zip(names, ports, strict=True)),
        socket=socket,
        user=user,
        password=password,
        database=database,
        options={name: value for name, value in given.items() if name in _LIBPQ},
        settings=_settings(given, _LIBPQ | _PGX_ONLY),
        ignored=tuple(name for name in given if name in _PGX_ONLY),
    )


def _postgresql_url(text: str) -> dict[str, str]:
    scheme, _, rest = text.partition("://")
    if scheme not in ("postgres", "postgresql"):
        raise ValueError("must begin with `postgres://` or `postgresql://`, or be `key=value` pairs")
    rest, _, query = rest.partition("?")
    authority, _, database = rest.partition("/")
    credentials, has_credentials, places = authority.rpartition("@")
    given: dict[str, str] = {}
    if has_credentials:
        user, _, password = credentials.partition(":")
        given |= {"user": _unquoted(user), "password": _unquoted(password)}
    hosts, ports = [], []
    for place in places.split(","):
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(?::(\d*))?", place, re.ASCII)
        if match is None:
            raise ValueError("has a host that is not `host` or `host:port`")
        hosts.append(_unquoted(match[1].strip("[]")))
        ports.append(match[2] or "")
    given |= {"host": ",".join(hosts), "port": ",".join(ports)}
    if database:
        given["dbname"] = _unquoted(database)
    given |= _parameters(query)
    return {name: value for name, value in given.items() if value}


def _key_values(text: str) -> dict[str, str]:
    """libpq's form: `key = value` pairs; a value with blanks stands in single quotes, `\\` escapes."""
    given: dict[str, str] = {}
    position = 0
    pair = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]++|\\.)*+)'|((?:[^\s'\\]++|\\.)*+))(?=\s|\Z)", re.ASCII)
    while position < len(text):
        match = pair.match(text, position)
        if match is None:
            raise ValueError("is neither a URL (`postgres://…`) nor `key=value` pairs")
        given[match[1]] = re.sub(r"\\(.)", r"\1", match[2] if match[2] is not None else match[3])
        position = match.end()
    return given


def _mysql(text: str) -> DatabaseTarget:
    url = text.removeprefix("mysql://")
    if url != text and not re.search(r"(^|@)(tcp[46]?|unix)\(", url):
        return _mysql_url(url)
    text = url
    if "/" not in text:
        raise ValueError("must be `user:password@tcp(host:3306)/database` or `mysql://…`; the `/` is missing")
    # The database's name begins at the last slash, unless that stands inside of a parameter's value.
    slash, server = text.rfind("/"), None
    while slash >= 0 and server is None:
        credentials, _, place = text[:slash].rpartition("@")
        server, at = _MYSQL_SERVER.fullmatch(place), slash
        slash = text.rfind("/", 0, slash)
    if server is None:
        raise ValueError("must name its server as `tcp(host:port)` or `unix(/path)`")
    user, _, password = credentials.partition(":")
    database, _, query = text[at + 1 :].partition("?")
    if server[1] == "unix":
        return _mysql_target((), server[2] or "/tmp/mysql.sock", (user, password), database, query)
    return _mysql_target((_host_port(server[2] or "127.0.0.1"),), "", (user, password), database, query)


def _mysql_url(rest: str) -> DatabaseTarget:
    rest, _, query = rest.partition("?")
    authority, _, database = rest.partition("/")
    credentials, _, place = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    who = (_unquoted(user), _unquoted(password))
    return _mysql_target((_host_port(place or "127.0.0.1"),), "", who, database, query)


def _mysql_target(
    hosts: tuple[tuple[str, int], ...], socket: str, who: tuple[str, str], database: str, query: str
) -> DatabaseTarget:
    given = _parameters(query)
    return DatabaseTarget(
        hosts=hosts,
        socket=socket,
        user=who[0],
        password=who[1],
        database=_unquoted(database),
        options={name: value for name, value in given.items() if name in _GO_MYSQL},
        settings=_settings(given, _GO_MYSQL | _GO_MYSQL_ONLY),
        ignored=tuple(name for name in given if name in _GO_MYSQL_ONLY),
    )


def _sqlite(text: str) -> DatabaseTarget:
    path, _, query = re.sub(r"^(sqlite3?://|file:(//(?=/))?)", "", text).partition("?")
    path = _unquoted(path) if text.startswith("file:") else path
    options = _parameters(query)
    if set(options) - {"mode"} or options.get("mode", "rw") not in _SQLITE_MODES:
        raise ValueError("has an unknown option; known is `mode`, which is " + ", ".join(_SQLITE_MODES))
    if path != ":memory:" and options.get("mode") != "memory" and not path.startswith("/"):
        raise ValueError("must be the absolute path of the database's file, or `:memory:`")
    return DatabaseTarget(path=path, options=options)


def _host_port(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^:\[\]/]+))?(?::(\d+))?", text, re.ASCII)
    if match is None:
        raise ValueError("has a host that is not `host` or `host:port`")
    return match[1] or match[2] or "127.0.0.1", _port(match[3] or "3306")


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise ValueError("has a port that is not a number from 1 to 65535")
    return int(text)


def _parameters(query: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError("has a parameter that is not `name=value`")
        given[_unquoted(name)] = _unquoted(value.replace("+", " "))
    return given


def _settings(given: Mapping[str, str], known: frozenset[str]) -> dict[str, str]:
    settings = {name: value for name, value in given.items() if name not in known}
    if not all(_SETTING.fullmatch(name) for name in settings):
        raise ValueError("has an option whose name is not letters, digits, `_` and `.`")
    return settings


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("has a `%` escape that is not UTF-8") from None
