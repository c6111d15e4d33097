"""Values read from elsewhere: found, checked, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo_farm.directive import references
from atmo_farm.directive.connections import Reference
from atmo_farm.directive.model import Directive
from atmo_farm.errors import Problem, UserFilesError
from tests.unit.directive.support import good, marked, read

BASE = "identifier: a\nappVersion: v1.0.0\natmoVersion: v1.0.0\n"
SECRET = "hunter2-canary"


def nats(keys: str) -> Directive:
    return good(f"{BASE}connections:\n  nats:\n    {keys}\n")


def refused(text: str, environ: dict[str, str], credentials: Path | None = None) -> Problem:
    """The one problem of resolving a marked text, which must stand at the mark and hide the secret."""
    plain, position = marked(text)
    with pytest.raises(UserFilesError) as error:
        references.resolve(good(plain), environ, credentials)
    (problem,) = error.value.problems
    assert problem.position == position
    assert SECRET not in str(error.value)
    warnings = references.unset(good(plain), environ, credentials)
    assert [warning.severity for warning in warnings] == ["warning"]
    assert SECRET not in str(warnings)
    return problem


def test_every_form(tmp_path: Path) -> None:
    """Variables, systemd's credentials and files, also in lists; one line end of a file is dropped."""
    (tmp_path / "atmo_token").write_text("from-systemd\n")
    (tmp_path / "pw").write_bytes(b"two\r\n")
    directive = nats(
        f"serverAddress: [env(A), 'b']\n    token: credential(token)\n    user: u\n    password: file({tmp_path}/pw)"
    )
    resolved = references.resolve(directive, {"A": "x, y:1"}, tmp_path).connections.nats["default"]
    assert resolved.server_addresses == ("nats://x:4222", "nats://y:1", "nats://b:4222")
    assert (resolved.token, resolved.password) == ("from-systemd", "two")
    assert references.unset(directive, {"A": "x"}, tmp_path) == ()


def test_a_single_address_may_stand_for_several() -> None:
    resolved = references.resolve(nats("serverAddress: env(A)"), {"A": "x,y"}, None)
    assert resolved.connections.nats["default"].server_addresses == ("nats://x:4222", "nats://y:4222")


def test_authentication_and_capabilities_resolve() -> None:
    text = (
        f"{BASE}authentication:\n  domains:\n    a.example: {{value: env(A)}}\n"
        "capabilities:\n  auth:\n    headers:\n      b.example: {headerType: basic, value: env(A)}\n"
    )
    resolved = references.resolve(good(text), {"A": "x"}, None)
    assert resolved.authentication == {"a.example": ("bearer", "x")}
    assert resolved.capabilities == {"auth": {"headers": {"b.example": {"headerType": "basic", "value": "x"}}}}


def test_secrets_of_functions_may_have_several_lines(tmp_path: Path) -> None:
    """A key in PEM; written or referred to. Other control characters are refused, and the secret is not shown."""
    (tmp_path / "key").write_text("-----BEGIN KEY-----\n\tabc=\n-----END KEY-----\n")
    values = f"    A: file({tmp_path}/key)\n    b/c: |\n      one\n      two\n    D: env(D)\n"
    directive = good(f"{BASE}capabilities:\n  secrets:\n   values:\n{values}")
    assert references.resolve(directive, {"D": "d"}, None).capabilities["secrets"]["values"] == {
        "A": "-----BEGIN KEY-----\n\tabc=\n-----END KEY-----",
        "b/c": "one\ntwo\n",
        "D": "d",
    }
    text = f"{BASE}capabilities:\n  secrets:\n   values:\n    «D: env(D)\n"
    for bad in (f"{SECRET}\0", f"{SECRET}\udcff"):
        assert "control characters" in refused(text, {"D": bad}).message


CASES = {
    "unset": ("user: u\n    «password: env(P)", {}, "the environment variable P is not set"),
    "empty": ("user: u\n    «password: env(P)", {"P": ""}, "what env(P) holds is empty"),
    "lines": ("user: u\n    «password: env(P)", {"P": f"{SECRET}\nx"}, "line breaks"),
    "no credentials": ("«token: credential(t)", {}, "$CREDENTIALS_DIRECTORY is not set"),
    "no file": ("«token: file(/nowhere/x)", {}, "the file /nowhere/x cannot be read: No such file"),
}


@pytest.mark.parametrize(("keys", "environ", "message"), CASES.values(), ids=CASES)
def test_problems(keys: str, environ: dict[str, str], message: str) -> None:
    text = f"{BASE}connections:\n  nats:\n    serverAddress: a\n    {keys}\n"
    problem = refused(text, environ)
    assert problem.key.startswith("connections.nats.")
    assert message in problem.message


def test_values_are_checked_once_they_are_known() -> None:
    """An address, a protocol or a connection string that does not parse is named by its key and never echoed."""
    head = f"{BASE}connections:\n"
    assert (
        "not an address" in refused(head + "  nats:\n    serverAddress: [a, «env(P)]\n", {"P": f"{SECRET}:x"}).message
    )
    kafka = head + "  kafka:\n    brokerAddress: a\n    «securityProtocol: env(P)\n"
    assert "must be one of" in refused(kafka, {"P": SECRET}).message
    database = head + "  database:\n    type: postgresql\n    «connectionString: env(P)\n"
    assert "neither a URL" in refused(database, {"P": SECRET}).message


def test_numbers_and_truth_values_may_be_references() -> None:
    """Everything in `connections` but the kinds of database and client, each read as if it stood there itself."""
    text = (
        f"{BASE}connections:\n"
        "  nats: {serverAddress: a, tls: {handshakeFirst: env(FLAG)}}\n"
        "  redis: {serverAddress: a, database: env(N)}\n"
        "  database: {type: sqlite, connectionString: /a, poolSize: env(N), connectTimeout: env(T),\n"
        "    statementTimeout: env(T), idleTimeout: env(T)}\n"
    )
    directive = good(text)
    assert directive.connections.redis is not None
    assert directive.connections.redis.database == Reference("env", "N")
    resolved = references.resolve(directive, {"N": "3", "T": "250ms", "FLAG": "on"}, None).connections
    assert resolved.redis is not None
    database, tls = resolved.databases["default"], resolved.nats["default"].tls
    assert (resolved.redis.database, database.pool_size, tls and tls.handshake_first) == (3, 3, True)
    assert (database.connect_timeout_s, database.statement_timeout_s, database.idle_timeout_s) == (0.25, 0.25, 0.25)
    for key, message in (("database", "it must be 0 to 1000000"), ("database", "is empty")):
        problem = refused(
            f"{BASE}connections:\n  redis: {{serverAddress: a, «{key}: env(P)}}\n",
            {"P": SECRET if "must" in message else ""},
        )
        assert message in problem.message


def test_the_word_before_a_credential_may_be_one() -> None:
    """`authentication` as a whole may; a literal word is checked."""
    text = f"{BASE}authentication:\n  domains:\n    a.example: {{headerType: env(A), value: x}}\n"
    assert references.resolve(good(text), {"A": "basic"}, None).authentication == {"a.example": ("basic", "x")}
    plain, position = marked(text.replace("headerType: env(A)", "«headerType: a b"))
    _, (problem,) = read(plain)
    assert (problem.position, problem.key) == (position, "authentication.domains.a.example.headerType")


def test_all_are_told_at_once() -> None:
    directive = nats("serverAddress: env(A)\n    user: env(B)\n    password: env(C)")
    with pytest.raises(UserFilesError) as error:
        references.resolve(directive, {"B": "b"}, None)
    assert [problem.key for problem in error.value.problems] == [
        "connections.nats.serverAddress",
        "connections.nats.password",
    ]


def test_connection_strings_get_their_target() -> None:
    """What a literal string gets when it is read, a reference gets here; ignored options are a warning."""
    text = f"{BASE}connections:\n  database:\n    type: postgresql\n    connectionString: env(P)\n"
    dsn = f"postgres://u:{SECRET}@h/db?pool_max_conns=3"
    database = references.resolve(good(text), {"P": dsn}, None).connections.databases["default"]
    assert database.target is not None
    assert (database.target.hosts, database.target.password) == ((("h", 5432),), SECRET)
    (warning,) = references.unset(good(text), {"P": dsn}, None)
    assert "`pool_max_conns`" in warning.message
    assert SECRET not in repr(database)


def test_secrets_are_not_in_any_repr() -> None:
    directive = good(
        f"{BASE}connections:\n  nats: {{serverAddress: 'nats://x:{SECRET}@a', user: u, "
        f"password: {SECRET}, token: {SECRET}}}\n"
        f"  kafka: {{brokerAddress: a, sasl: {{mechanism: PLAIN, password: {SECRET}}}}}\n"
        f"  redis: {{serverAddress: 'redis://x:{SECRET}@a', password: {SECRET}}}\n"
        f"  database: {{type: mysql, connectionString: 'u:{SECRET}@tcp(h)/d'}}\n"
        f"authentication: {{domains: {{a.example: {{value: {SECRET}}}}}}}\n"
        f"capabilities: {{auth: {{headers: {{a.example: {{value: {SECRET}}}}}}},\n"
        f"  secrets: {{values: {{A: {SECRET}}}}}}}\n"
    )
    assert SECRET not in repr(directive)


def test_large_and_odd_files(tmp_path: Path) -> None:
    """Too large, not UTF-8, a folder: problems, no exceptions."""
    (tmp_path / "large").write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, message in (("large", "larger than 1 MiB"), ("binary", "not UTF-8"), ("", "cannot be read")):
        text = f"{BASE}connections:\n  nats:\n    serverAddress: a\n    «token: file({tmp_path}/{name})\n"
        assert message in refused(text, {}).message
