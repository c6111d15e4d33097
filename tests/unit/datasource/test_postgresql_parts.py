"""Parts of PostgreSQL's backend that need no server."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import psycopg2
import pytest

from atmo_farm.datasource.meter import Meter
from atmo_farm.datasource.postgresql.failures import first_words
from atmo_farm.datasource.postgresql.target import Place, target
from atmo_farm.datasource.postgresql.values import as_comment
from atmo_farm.directive import dsn
from atmo_farm.directive.connections import DatabaseConnection, Tls


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'connection to server at "10.0.0.1", port 5432 failed: Connection refused\n\tIs the server running?\n',
            "Connection refused",
        ),
        (
            'connection to server at "a", port 1 failed: FATAL:  password authentication failed for user "u"\n'
            'connection to server at "a", port 1 failed: FATAL:  no pg_hba.conf entry\n',
            'password authentication failed for user "u"',
        ),
        ("FATAL:  terminating connection due to administrator command\nSSL connection", "terminating connection"),
        (
            "server closed the connection unexpectedly\n\tThis probably means",
            "server closed the connection unexpectedly",
        ),
        ("", "the connection was lost"),
    ],
)
def test_first_words(text: str, words: str) -> None:
    """Of libpq, of the server, of psycopg2."""
    assert first_words(psycopg2.OperationalError(text)).startswith(words)
    assert "\n" not in first_words(psycopg2.OperationalError(text))


@pytest.mark.parametrize(
    "text", ["app=x", "*/", "/*", "**//", "/*/", "*/*/*/", "//**//**", "/ * / *", "*" * 9 + "/" * 9]
)
def test_comments(text: str) -> None:
    """They begin once and end once."""
    comment = as_comment(text)
    assert (comment.count("/*"), comment.count("*/")) == (1, 1)
    assert comment.startswith("/* ") and comment.endswith(" */ ")


def of(text: str, **keys: Any) -> Any:
    connection = DatabaseConnection("default", "postgresql", text, dsn.parse("postgresql", text), **keys)
    return target(connection, "atmo-farm/tests")


def test_places() -> None:
    """Hosts with their ports and addresses, or the folder of a socket."""
    assert of("postgres://a:1,[::1]:2/db").places == (Place("a", 1), Place("::1", 2))
    assert of("host=a,b hostaddr=10.0.0.1,10.0.0.2").places == (
        Place("a", 5432, "10.0.0.1"),
        Place("b", 5432, "10.0.0.2"),
    )
    assert of("host=/run/pg port=5433").places == (Place("/run/pg", 5433),)
    assert [str(place) for place in of("postgres://a,[::1]/db").places] == ["a:5432", "[::1]:5432"]
    shuffled = of("postgres://a,b,c/db?load_balance_hosts=random")
    assert {shuffled.in_order()[0].host for _ in range(200)} == {"a", "b", "c"}


def test_parameters() -> None:
    """Ours, unless the connection string says otherwise; not those that are dealt with here."""
    plain = of("postgres://u:p%40@h/db").parameters
    assert plain["user"], plain["password"] == ("u", "p@")
    assert (plain["dbname"], plain["application_name"], plain["keepalives_idle"]) == ("db", "atmo-farm/tests", "10")
    assert not {"host", "port", "connect_timeout"} & plain.keys()
    own = of("postgres://h/db?keepalives_idle=99&application_name=mine&client_encoding=LATIN1&connect_timeout=3")
    assert (own.parameters["keepalives_idle"], own.parameters["application_name"]) == ("99", "mine")
    assert own.parameters["client_encoding"] == "UTF8"
    assert own.connect_timeout_s == 3
    assert of("postgres://h/db?connect_timeout=3", connect_timeout_s=0.5).connect_timeout_s == 0.5


def test_settings() -> None:
    """What the session is told; a statement_timeout is kept to, too."""
    found = of("postgres://h/db?search_path=a&statement_timeout=2s&standard_conforming_strings=off")
    assert dict(found.settings) == {"search_path": "a", "statement_timeout": "2s"}
    assert found.statement_timeout_ms == 2000
    assert [
        of(f"postgres://h/db?statement_timeout={text}").statement_timeout_ms for text in ("500", "1min", "soon")
    ] == [
        500,
        60_000,
        0,
    ]


def test_tls() -> None:
    """The certificate and its name are checked, unless the connection string says otherwise."""
    files = Tls(ca_file="ca", cert_file="cert", key_file="key", server_name="db.example.com")
    parameters = of("postgres://h/db", tls=files).parameters
    assert {name: parameters[name] for name in ("sslmode", "sslrootcert", "sslcert", "sslkey", "host")} == {
        "sslmode": "verify-full",
        "sslrootcert": "ca",
        "sslcert": "cert",
        "sslkey": "key",
        "host": "db.example.com",
    }
    assert of("postgres://h/db", tls=Tls()).parameters["sslrootcert"]
    assert of("postgres://h/db?sslmode=require", tls=files).parameters["sslmode"] == "require"
    assert "sslmode" not in of("postgres://h/db").parameters


def test_secrets_stay_inside() -> None:
    """Neither a target's repr nor a reason holds them."""
    found = of("postgres://u:c4nary@h/db?sslpassword=s3cret")
    assert "c4nary" not in repr(found) and "s3cret" not in repr(found)
    assert found.told(Place("h", 1), "c4nary and s3cret\nare wrong") == "h:1: *** and *** are wrong"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_meter(family: socket.AddressFamily) -> None:
    """Bytes that came since `begin`: all of them over TCP, never too many over a Unix socket."""
    ours, theirs = _pair(family)
    with ours, theirs:
        meter = Meter(ours.fileno())
        theirs.sendall(b"x" * 1000)
        ours.recv(400)
        meter.begin()
        assert meter.received() == 600
        sending = threading.Thread(target=theirs.sendall, args=(b"x" * 10_000_000,))
        sending.start()
        read = 0
        while read < 10_000_600:
            assert meter.received() <= 10_000_600
            read += len(ours.recv(16_384))
        sending.join()
        assert meter.received() == 10_000_600 if family == socket.AF_INET else meter.received() >= 1_000_000
        del meter
        assert os.fstat(ours.fileno())


def _pair(family: socket.AddressFamily) -> tuple[socket.socket, socket.socket]:
    if family == socket.AF_UNIX:
        return socket.socketpair()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]
