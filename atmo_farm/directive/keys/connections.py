"""The keys of `connections` and `authentication`."""

from __future__ import annotations

import re

from atmo_farm.directive import addresses
from atmo_farm.directive.keys.kinds import Choice, Duration, Flag, Integer
from atmo_farm.directive.keys.secret import OrReference, SecretText
from atmo_farm.directive.keys.shapes import Either, Key, ListOf, MapOf, OneOrNamed, Table

NAME = r"[A-Za-z0-9_-]{1,64}"
_SECRET = SecretText()
_PATH = SecretText(expected="a path")

SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI")


def _addresses(check: addresses.Check, what: str) -> Either:
    one = SecretText(check, f"{what} `host` or `host:port`, several with commas")
    return Either(one, ListOf(one))


TLS = Table(
    "Tls",
    "TLS settings of a connection",
    (
        Key("caFile", _PATH, "the authorities to trust, PEM", default="the machine's"),
        Key("certFile", _PATH, "this client's certificate, PEM"),
        Key("keyFile", _PATH, "the private key of `certFile`, PEM"),
        Key("serverName", _SECRET, "the name that the server's certificate must hold", default="the address's host"),
        Key("handshakeFirst", OrReference(Flag()), "start TLS before the broker's greeting (NATS)", default="`false`"),
    ),
)

NATS = Table(
    "NatsConnection",
    "a NATS connection",
    (
        Key("serverAddress", _addresses(addresses.nats, "the servers' addresses:"), "where NATS is; port 4222", True),
        Key(
            "name",
            _SECRET,
            "the client name that the server shows",
            default="`atmo-farm/<identifier>/<handler>/<worker>`",
        ),
        Key("user", _SECRET, "user name"),
        Key("password", _SECRET, "password of `user`"),
        Key("token", _SECRET, "authentication token"),
        Key("credentialsFile", _PATH, "a `.creds` file (JWT and seed)"),
        Key("nkeySeedFile", _PATH, "a file with an NKey seed"),
        Key("inboxPrefix", _SECRET, "the prefix of reply subjects", default="`_INBOX`"),
        Key("tls", TLS, "TLS settings"),
    ),
)

SASL = Table(
    "Sasl",
    "SASL settings of a Kafka connection",
    (
        Key("mechanism", SecretText(addresses.one_of(SASL_MECHANISMS), "a SASL mechanism"), "the SASL mechanism", True),
        Key("username", _SECRET, "user name"),
        Key("password", _SECRET, "password of `username`"),
    ),
)

KAFKA = Table(
    "KafkaConnection",
    "a Kafka connection",
    (
        Key("brokerAddress", _addresses(addresses.kafka, "the brokers' addresses:"), "where Kafka is; port 9092", True),
        Key("clientId", _SECRET, "the client id", default="`atmo-farm/<identifier>/<handler>/<worker>`"),
        Key(
            "securityProtocol",
            SecretText(addresses.one_of(SECURITY_PROTOCOLS), "a security protocol"),
            "`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`",
            default="from `sasl` and `tls`",
        ),
        Key("sasl", SASL, "SASL settings"),
        Key("tls", TLS, "TLS settings"),
        Key("driver", Choice(("auto", "kafka-python", "librdkafka")), "the client library", default="`auto`"),
    ),
)

REDIS = Table(
    "RedisConnection",
    "the Redis connection",
    (
        Key(
            "serverAddress",
            SecretText(addresses.redis, "an address"),
            "where Redis is; port 6379, or `unix:///path`",
            True,
        ),
        Key("username", _SECRET, "user name"),
        Key("password", _SECRET, "password"),
        Key("database", OrReference(Integer(0, 1_000_000)), "the database's number", default="0"),
        Key("keyPrefix", _SECRET, "put before every key"),
        Key("tls", TLS, "TLS settings"),
    ),
)

DATABASE = Table(
    "DatabaseConnection",
    "a database connection",
    (
        Key("type", Choice(("postgresql", "mysql", "sqlite")), "the kind of database", True),
        Key(
            "connectionString",
            SecretText(expected="a connection string"),
            "PostgreSQL: a URL or `key=value` pairs; MySQL: a Go DSN `user:password@tcp(host:3306)/db` or `mysql://…`; "
            "SQLite: an absolute path, or `:memory:`",
            True,
        ),
        Key("poolSize", OrReference(Integer(1, 1000)), "how many connections are kept"),
        Key("connectTimeout", OrReference(Duration()), "how long connecting may take"),
        Key("statementTimeout", OrReference(Duration()), "how long one statement may take"),
        Key("idleTimeout", OrReference(Duration()), "when an unused connection is closed"),
        Key("tls", TLS, "TLS settings"),
    ),
)

CONNECTIONS = Table(
    "Connections",
    "the connections to brokers and data sources",
    (
        Key(
            "nats",
            OneOrNamed(NATS, NAME),
            "NATS: one connection, or several by name (chosen by a handler's `connection`)",
        ),
        Key("kafka", OneOrNamed(KAFKA, NAME), "Kafka: one connection, or several by name"),
        Key("database", DATABASE, "the database of queries that name none"),
        Key("databases", MapOf(DATABASE, "a database's name", NAME), "more databases, by name"),
        Key("redis", REDIS, "Redis as the functions' cache"),
    ),
)

HOST = r"[A-Za-z0-9_.:\[\]*-]{1,255}"


def _header_type(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text, re.ASCII):
        raise ValueError("must be one word of letters, digits, `_` and `-`")
    return text


AUTH_HEADER = Table(
    "AuthHeader",
    "the `Authorization` header for one host",
    (
        Key(
            "headerType",
            SecretText(_header_type, "the header's type"),
            "the word before the value",
            default="`bearer`",
        ),
        Key("value", _SECRET, "the secret; functions never see it", True),
    ),
)

AUTHENTICATION = Table(
    "Authentication",
    "credentials that are added to the functions' HTTP requests",
    (Key("domains", MapOf(AUTH_HEADER, "a host", HOST), "host → its header"),),
)
