"""`connections`, `authentication` and `capabilities`: from sections to the model."""

from __future__ import annotations

from typing import Any, Literal, cast

from atmo_farm.directive import dsn
from atmo_farm.directive.connections import (
    Connections,
    DatabaseConnection,
    DatabaseTarget,
    KafkaConnection,
    NatsConnection,
    RedisConnection,
    Reference,
    Tls,
    Value,
)
from atmo_farm.directive.report import Report
from atmo_farm.directive.section import Section, plain


def connections(section: Section | None, report: Report) -> Connections:
    """All connections that could be read; the report says what is wrong with the others."""
    if section is None:
        return Connections()
    databases: dict[str, DatabaseConnection] = {}
    single, named = section.section("database"), section.section("databases")
    if single:
        _add(databases, _database("default", single, report))
    for name, entry in _entries(named):
        if name == "default" and single:
            report.error(entry.position, entry.path, "`connections.database` has this name already")
        else:
            _add(databases, _database(name, entry, report))
    redis = section.section("redis")
    return Connections(
        nats={name: _nats(name, entry, report) for name, entry in _entries(section.section("nats"))},
        kafka={name: _kafka(name, entry, report) for name, entry in _entries(section.section("kafka"))},
        redis=_redis(redis, report) if redis else None,
        databases=databases,
    )


def _entries(section: Section | None) -> list[tuple[str, Section]]:
    return list(section.values.items()) if section else []


def _add(databases: dict[str, DatabaseConnection], database: DatabaseConnection | None) -> None:
    if database:
        databases[database.name] = database


def _nats(name: str, section: Section, report: Report) -> NatsConnection:
    addresses = _addresses(section, "serverAddress")
    if any(isinstance(address, str) and address.startswith(("ws://", "wss://")) for address in addresses):
        message = "NATS over WebSocket is not served by this build yet; write `nats://` or `tls://` to start the farm"
        report.later(section.at("serverAddress"), section.key("serverAddress"), message)
    _check_needs(section, "password", "user", report)
    return NatsConnection(
        name=name,
        server_addresses=addresses,
        client_name=section.get("name", ""),
        user=section.get("user", ""),
        password=section.get("password", ""),
        token=section.get("token", ""),
        credentials_file=section.get("credentialsFile", ""),
        nkey_seed_file=section.get("nkeySeedFile", ""),
        inbox_prefix=section.get("inboxPrefix", ""),
        tls=_tls(section, report),
        position=section.position,
    )


def _kafka(name: str, section: Section, report: Report) -> KafkaConnection:
    sasl = section.section("sasl") or Section("", section.position)
    return KafkaConnection(
        name=name,
        broker_addresses=_addresses(section, "brokerAddress"),
        client_id=section.get("clientId", ""),
        security_protocol=section.get("securityProtocol", ""),
        sasl_mechanism=sasl.get("mechanism", ""),
        sasl_username=sasl.get("username", ""),
        sasl_password=sasl.get("password", ""),
        tls=_tls(section, report),
        driver=section.get("driver", "auto"),
        position=section.position,
    )


def _redis(section: Section, report: Report) -> RedisConnection:
    return RedisConnection(
        server_address=section.get("serverAddress", ""),
        username=section.get("username", ""),
        password=section.get("password", ""),
        database=section.get("database", 0),
        key_prefix=section.get("keyPrefix", ""),
        tls=_tls(section, report),
        position=section.position,
    )


def _database(name: str, section: Section, report: Report) -> DatabaseConnection | None:
    kind, text = section.text("type"), section.get("connectionString", cast(Value, ""))
    if not kind or not text:
        return None
    target: DatabaseTarget | None = None
    if isinstance(text, str):
        try:
            target = dsn.parse(kind, text)
        except ValueError as error:
            report.error(section.at("connectionString"), section.key("connectionString"), str(error))
            return None
        for option in target.ignored:
            message = f"the option `{option}` was Atmo's driver's own and has no effect here"
            report.warn(section.at("connectionString"), section.key("connectionString"), message)
    return DatabaseConnection(
        name=name,
        type=cast(Literal["postgresql", "mysql", "sqlite"], kind),
        connection_string=text,
        target=target,
        pool_size=section.get("poolSize", None),
        connect_timeout_s=section.get("connectTimeout", None),
        statement_timeout_s=section.get("statementTimeout", None),
        idle_timeout_s=section.get("idleTimeout", None),
        tls=_tls(section, report),
        position=section.position,
    )


def _tls(section: Section, report: Report) -> Tls | None:
    tls = section.section("tls")
    if tls is None:
        return None
    _check_needs(tls, "keyFile", "certFile", report)
    return Tls(
        ca_file=tls.get("caFile", ""),
        cert_file=tls.get("certFile", ""),
        key_file=tls.get("keyFile", ""),
        server_name=tls.get("serverName", ""),
        handshake_first=tls.get("handshakeFirst", False),
    )


def _check_needs(section: Section, name: str, other: str, report: Report) -> None:
    """A key that would have no effect without another one."""
    if section.is_written(name) and not section.is_written(other):
        report.error(section.at(name), section.key(name), f"needs `{other}` beside it")


def _addresses(section: Section, name: str) -> tuple[Value, ...]:
    """One flat tuple: a single text may hold several addresses, and so may each item of a list."""
    value: Any = section.get(name, ())
    if isinstance(value, Reference):
        return (value,)
    flat: list[Value] = []
    for item in value:
        flat += item if isinstance(item, tuple) else [item]
    return tuple(flat)


def authentication(section: Section | None, report: Report) -> dict[str, tuple[Value, Value]]:
    """host → (headerType, value); not served while functions cannot make requests."""
    domains = section.section("domains") if section else None
    if section and domains and any("value" in entry for _, entry in _entries(domains)):
        message = "HTTP requests of functions are not served by this build yet; remove the key to start the farm"
        report.later(section.at("domains"), section.key("domains"), message)
    return {
        host: (entry.get("headerType", cast(Value, "bearer")), entry.get("value", cast(Value, "")))
        for host, entry in _entries(domains)
    }


def capabilities(section: Section | None, report: Report) -> dict[str, Any]:
    """The capabilities as written, in plain dicts; those that are asked for and not served yet are noted."""
    if section is None:
        return {}
    for name, entry in _entries(section):
        if name not in SERVED_CAPABILITIES and entry.get("enabled", True):
            message = "is not served by this build yet; remove the key, or write `enabled: false`, to start the farm"
            report.later(section.at(name), section.key(name), message)
    return cast(dict[str, Any], plain(section))


SERVED_CAPABILITIES = ("logger", "cache", "db", "secrets", "requestHandler")
"""Capabilities that this build gives to functions."""
