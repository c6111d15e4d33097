"""What of a Directive must never be logged."""

from __future__ import annotations

from pathlib import Path

from atmo_farm.directive import load, references
from atmo_farm.directive.secrets import secrets
from tests.unit.directive.support import HEAD, write_project

CONNECTIONS = """
  nats:
    a: {serverAddress: 'nats://u:in-nats-url@h', user: u, password: env(A)}
    b: {serverAddress: h, token: nats-token}
    c: {serverAddress: env(ADDRESS), user: env(USER), name: env(SHORT), tls: {caFile: env(FILE)}}
    d: {serverAddress: 'nats://token-in-url@h'}
    e: {serverAddress: 'nats://u:per%25cent@h'}
  kafka: {brokerAddress: h, sasl: {mechanism: PLAIN, username: u, password: kafka-password}}
  redis: {serverAddress: 'rediss://u:in-redis-url@h', password: redis-password}
  database: {type: postgresql, connectionString: 'postgres://u:pg-password@h/d'}
  databases:
    m: {type: mysql, connectionString: 'u:my-password@tcp(h)/d'}
    s: {type: sqlite, connectionString: /tmp/file.db}
authentication:
  domains: {a.example: {headerType: bearer, value: auth-value}}
capabilities:
  auth: {headers: {a.example: {value: auth-capability}}}
  secrets: {values: {ONE: for-functions, TWO: env(B)}}
"""


def test_every_secret_is_known(tmp_path: Path) -> None:
    """Passwords, tokens, whole connection strings; written, in addresses, or referred to. No names and files that are
    written, no addresses, no short names."""
    head = HEAD[: HEAD.index("connections:")]
    folder = write_project(tmp_path / "app", f"{head}connections:{CONNECTIONS}")
    environ = {"A": "from-env", "B": "b\nb", "ADDRESS": "nats://env:in-env-url@somewhere", "USER": "user-by-env"}
    environ |= {"SHORT": "farm", "FILE": "/etc/ssl/ca-certificate"}
    directive = references.resolve(load(folder).directive, environ, None)
    assert set(secrets(directive)) == {
        "in-nats-url",
        "from-env",
        "nats-token",
        "in-env-url",
        "user-by-env",
        "token-in-url",
        "per%25cent",
        "per%cent",
        "kafka-password",
        "in-redis-url",
        "redis-password",
        "pg-password",
        "postgres://u:pg-password@h/d",
        "my-password",
        "u:my-password@tcp(h)/d",
        "auth-value",
        "auth-capability",
        "for-functions",
        "b\nb",
    }
