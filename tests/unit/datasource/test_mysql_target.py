"""A Directive's MySQL connection in the driver's terms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from atmo_farm.datasource.mysql.target import CONNECT_TIMEOUT_S, Target, target, whole_seconds
from atmo_farm.directive import dsn
from atmo_farm.directive.connections import DatabaseConnection, Tls
from atmo_farm.errors import CannotStart


def made(text: str, tls: Tls | None = None, **keys: float) -> Target:
    """The target of a connection string."""
    connection = DatabaseConnection("orders", "mysql", text, dsn.parse("mysql", text), tls=tls, **keys)  # type: ignore[arg-type]
    return target(connection, 100, 1000)


def refused(text: str, tls: Tls | None = None) -> str:
    """Why it cannot be used."""
    with pytest.raises(CannotStart) as caught:
        made(text, tls)
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


def test_where() -> None:
    """A host, a port, or a Unix socket; `localhost` is a host too, and not the driver's default socket."""
    assert made("u:p@tcp(db.example:3307)/d").arguments | {"host": "db.example", "port": 3307, "database": "d"}
    loud = made("u@tcp(localhost)/d").arguments
    assert (loud["host"], loud["port"], loud["password"]) == ("LOCALHOST", 3306, "")
    socket = made("u@unix(/run/x.sock)/").arguments
    assert socket["unix_socket"] == "/run/x.sock"
    assert not {"host", "port", "database"} & set(socket)


def test_safe_by_default() -> None:
    """No files of the client's for the server, one statement at a time, utf8mb4, no password in clear."""
    plain = made("u@/d")
    assert plain.arguments["local_infile"] == 0
    assert plain.arguments["client_flag"] == 0
    assert plain.arguments["charset"] == "utf8mb4"
    assert plain.arguments["ssl_mode"] == "DISABLED"
    assert b"mysql_clear_password" not in plain.options_file
    assert b"max-allowed-packet=1000\n" in plain.options_file


def test_no_user() -> None:
    """The driver would take the name of the operating system's user."""
    assert refused("tcp(127.0.0.1)/d") == "connections.databases.orders: connectionString names no user"


@pytest.mark.parametrize(
    ("given", "mode", "ssl_mode"),
    [
        ("", "off", "DISABLED"),
        ("tls=false", "off", "DISABLED"),
        ("tls=preferred", "preferred", "REQUIRED"),
        ("tls=skip-verify", "encrypted", "REQUIRED"),
        ("tls=true", "verified", "VERIFY_IDENTITY"),
    ],
)
def test_tls_of_the_dsn(given: str, mode: str, ssl_mode: str) -> None:
    """As Go's driver has it."""
    got = made(f"u@tcp(h)/d?{given}")
    assert (got.tls, got.arguments["ssl_mode"]) == (mode, ssl_mode)
    assert ("ssl" in got.arguments) is (mode != "off")
    assert (b"mysql_clear_password" in got.options_file) is (mode in ("encrypted", "verified"))


def test_tls_of_the_directive(tmp_path: Path) -> None:
    """The key goes before the DSN's option, and always verifies; its files must be there."""
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).write_text("")
    tls = Tls(
        ca_file=str(tmp_path / "ca.pem"), cert_file=str(tmp_path / "client.pem"), key_file=str(tmp_path / "client.key")
    )
    got = made("u@tcp(h)/d?tls=skip-verify", tls)
    assert got.tls == "verified"
    assert got.arguments["ssl"] == {"ca": tls.ca_file, "cert": tls.cert_file, "key": tls.key_file}
    assert "tls.caFile: cannot read" in refused("u:s3cret@tcp(h)/d", Tls(ca_file=str(tmp_path / "absent.pem")))
    assert "tls.serverName" in refused("u:s3cret@tcp(h)/d", Tls(server_name="other"))
    assert made("u:s3cret@tcp(h)/d", Tls(server_name="h")).tls == "verified"
    assert "Unix socket" in refused("u:s3cret@unix(/s)/d", Tls())
    assert "known are true" in refused("u:s3cret@tcp(h)/d?tls=custom")


def test_the_systems_authorities() -> None:
    """Without a caFile they are asked."""
    assert made("u@tcp(h)/d?tls=true").arguments["ssl"]


def test_timeouts() -> None:
    """The Directive's key, then the DSN's option, then the default; in Go's own durations."""
    assert made("u@/d").connect_timeout_s == CONNECT_TIMEOUT_S
    assert made("u@/d?timeout=1m30.5s").connect_timeout_s == 90.5
    assert made("u@/d?timeout=90s", connect_timeout_s=2.0).connect_timeout_s == 2.0
    got = made("u@/d?readTimeout=500ms&writeTimeout=2s")
    assert (got.read_timeout_s, got.write_timeout_s) == (0.5, 2.0)
    assert made("u@/d?readTimeout=0").read_timeout_s == math.inf
    for wrong in ("1x", "5", "-1s", "1s1", "s"):
        assert "`readTimeout`" in refused(f"u:s3cret@/d?readTimeout={wrong}")
    assert [whole_seconds(s) for s in (0.2, 1.0, 1.2, math.inf)] == [1, 1, 2, 0]


def test_other_options() -> None:
    """clientFoundRows, maxAllowedPacket, collation; a character set is always utf8mb4."""
    assert made("u@/d?clientFoundRows=true").arguments["client_flag"] == 2
    assert made("u@/d?maxAllowedPacket=5000").max_packet == 5000
    assert made("u@/d?maxAllowedPacket=0").max_packet == math.inf
    assert "maxAllowedPacket" in refused("u:s3cret@/d?maxAllowedPacket=many")
    names = {
        "collation=utf8mb4_bin": "SET NAMES utf8mb4 COLLATE utf8mb4_bin",
        "collation=utf8_unicode_ci": "SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci",
        "collation=gbk_chinese_ci": "SET NAMES utf8mb4",
        "collation=utf8mb4_bin;x": "SET NAMES utf8mb4",
        "charset=gbk": "SET NAMES utf8mb4",
    }
    for option, statement in names.items():
        assert made(f"u@/d?{option}").greeting[0][0] == statement


def test_settings() -> None:
    """Whatever else the DSN has is set for the session: values of SQL as they are, others as a text."""
    got = made("u@/d?sql_mode=%27ANSI_QUOTES%27&wait_timeout=60&x=a,b&y=it's%5C&z=1;DROP&time_zone=%27Europe/Paris%27")
    assert [statement for statement, _ in got.greeting[2:]] == [
        "SET SESSION sql_mode='ANSI_QUOTES'",
        "SET SESSION wait_timeout=60",
        "SET SESSION x='a,b'",
        "SET SESSION y='it''s\\\\'",
        "SET SESSION z='1;DROP'",
        "SET SESSION time_zone='Europe/Paris'",
    ]
    assert got.has_own_zone
    assert "sql_select_limit=101" in got.greeting[1][0]
    assert not made("u@/d").has_own_zone


def test_repr() -> None:
    """It holds no password."""
    assert "s3cret" not in repr(made("u:s3cret@/d?x=s3cret"))
