"""The keys of `capabilities`: what functions may do. Everything is on unless it is switched off."""

from __future__ import annotations

from atmo_farm.directive.keys.connections import AUTH_HEADER, HOST
from atmo_farm.directive.keys.kinds import Flag, Integer, Text
from atmo_farm.directive.keys.secret import SecretText
from atmo_farm.directive.keys.shapes import Key, ListOf, MapOf, Table

_DOMAINS = ListOf(Text("a domain, `*` for one label", HOST))
_PORTS = ListOf(Integer(1, 65535))
_SECRET_NAME = r"[A-Za-z0-9_./:-]{1,128}"
_ENABLED = Key("enabled", Flag(), "whether functions have it", default="`true`")

HTTP_RULES = Table(
    "HttpRules",
    "what HTTP requests of functions may reach",
    (
        Key("allowedDomains", _DOMAINS, "only these; wins over `blockedDomains`"),
        Key("blockedDomains", _DOMAINS, "never these"),
        Key("allowedPorts", _PORTS, "these ports besides 80 and 443"),
        Key("blockedPorts", _PORTS, "never these ports"),
        Key("allowIPs", Flag(), "addresses given as numbers", default="`true`"),
        Key("allowPrivate", Flag(), "private and loopback addresses", default="`true`"),
        Key("allowHTTP", Flag(), "requests without TLS", default="`true`"),
    ),
)

CACHE_RULES = Table(
    "CacheRules",
    "what functions may do with the cache",
    (
        Key("allowSet", Flag(), "set keys", default="`true`"),
        Key("allowGet", Flag(), "get keys", default="`true`"),
        Key("allowDelete", Flag(), "delete keys", default="`true`"),
    ),
)


def _switch(name: str, doc: str, *more: Key) -> Key:
    return Key(name, Table(name[0].upper() + name[1:] + "Capability", doc, (_ENABLED, *more)), doc)


CAPABILITIES = Table(
    "Capabilities",
    "what the application's functions may do",
    (
        _switch("logger", "log lines of functions"),
        _switch("http", "HTTP requests (`fetch_url`)", Key("rules", HTTP_RULES, "what they may reach")),
        _switch("graphql", "GraphQL queries", Key("rules", HTTP_RULES, "what they may reach")),
        _switch(
            "auth",
            "`Authorization` headers for the functions' requests",
            Key("headers", MapOf(AUTH_HEADER, "a host", HOST), "host → its header"),
        ),
        _switch("cache", "the cache (`cache_get`, `cache_set`)", Key("rules", CACHE_RULES, "what is allowed")),
        _switch("file", "static files (`get_static_file`)"),
        _switch("db", "named queries (`db_exec`)"),
        _switch(
            "secrets",
            "secrets for functions (`get_secret_value`)",
            Key(
                "values",
                MapOf(SecretText(multiline=True), "a secret's name", _SECRET_NAME),
                "name → value: all that functions may ask for",
            ),
        ),
        _switch(
            "requestHandler",
            "the fields of the request",
            Key("allowGetField", Flag(), "read fields", default="`true`"),
            Key("allowSetField", Flag(), "change fields", default="`true`"),
        ),
    ),
)
