"""From a Directive's connection to nats-py's arguments, and from errors to words for operators."""

from __future__ import annotations

import base64
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]
import pytest
from nats import errors

from atmo_farm.directive.connections import Reference, Tls
from atmo_farm.errors import CannotStart
from atmo_farm.streams.nats_options import CredentialsFile, Options, options, reason, text
from tests.servers import certificates
from tests.servers.nats_users import Operator, credentials_file, new_key
from tests.streams import nats_connection


def made(*addresses: str, **keys: Any) -> Options:
    return options(nats_connection(*(addresses or ("nats://h:4222",)), **keys), "farm/0")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("nats://h:1", "nats://h:1"),
        ("tls://h", "tls://h:4222"),
        ("h", "nats://h:4222"),
        ("h:1", "nats://h:1"),
        (" nats://h/ ", "nats://h:4222"),
        ("[::1]", "nats://[::1]:4222"),
        ("nats://[::1]:9", "nats://[::1]:9"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    """With or without scheme and port."""
    assert made(address).arguments["servers"] == [url]


@pytest.mark.parametrize(
    ("address", "why"),
    [("nats://h:99999", "is no address"), ("nats://", "is no address"), ("ws://h:1", "'ws'"), ("::1", "is no address")],
)
def test_addresses_that_cannot_be_used(address: str, why: str) -> None:
    """Refused with the connection's name and without the text, which may hold a password."""
    with pytest.raises(CannotStart, match=why) as caught:
        made(address)
    assert str(caught.value).startswith("connection 'default' (nats): ")


def test_names() -> None:
    """The client's own, if the Directive gives one; else what the farm calls it."""
    assert made().arguments["name"] == "farm/0"
    assert made(client_name="mine").arguments["name"] == "mine"


@pytest.mark.parametrize(
    ("addresses", "wanted"),
    [
        (("nats://ann:s%40cret@h",), {"user": "ann", "password": "s@cret"}),
        (("nats://ann:s%40cret@h", "nats://ann:s%40cret@i"), {"user": "ann", "password": "s@cret"}),
        (("nats://t0ken@h", "i"), {"token": "t0ken"}),
    ],
)
def test_credentials_in_addresses(addresses: tuple[str, ...], wanted: dict[str, str]) -> None:
    """Taken out of them, unquoted, and used for every server, also those that a cluster names later."""
    found = made(*addresses)
    assert wanted.items() <= found.arguments.items()
    assert not any("@" in server for server in found.arguments["servers"])
    assert set(found.secrets) == {wanted.get("password") or wanted["token"]}


def test_two_kinds_of_credentials_in_addresses() -> None:
    """Each server gets its own; all of them are secrets."""
    found = made("nats://ann:secret-1@h", "nats://secret-2@i")
    assert found.arguments["servers"] == ["nats://ann:secret-1@h:4222", "nats://secret-2@i:4222"]
    assert set(found.secrets) == {"secret-1", "secret-2"}


def test_keys_of_the_directive() -> None:
    """User and password, token, inbox prefix."""
    found = made(user="ann", password="secret", inbox_prefix="_MINE").arguments
    assert {"user": "ann", "password": "secret", "inbox_prefix": "_MINE"}.items() <= found.items()
    assert made(token="secret").arguments["token"] == "secret"


def test_nothing_asked_for() -> None:
    """No TLS, no credentials, no secrets."""
    found = made()
    assert found.arguments.keys() == {"servers", "name"} and not found.wants_tls and found.secrets == ()


def test_options_show_no_secret() -> None:
    """Wherever they are printed."""
    assert "hunter22" not in repr(made("nats://ann:hunter22@h", token="hunter22"))


def test_a_reference_that_is_not_resolved() -> None:
    """A bug of ours, told as one."""
    with pytest.raises(TypeError, match=r"env\(TOKEN\) is not resolved"):
        text(Reference("env", "TOKEN"))


def test_a_seed_file(tmp_path: Path) -> None:
    """Its content, checked, with or without a line end; it is a secret."""
    seed = new_key().seed
    (tmp_path / "seed").write_text(f"{seed}\n")
    found = made(nkey_seed_file=str(tmp_path / "seed"))
    assert found.arguments["nkeys_seed_str"] == seed and found.secrets == (seed,)


@pytest.mark.parametrize("content", [None, b"", b"SUAB", b"not a seed at all, however long it may be", b"\xff" * 58])
def test_a_seed_file_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    """The key and the path are named, the content is not."""
    path = tmp_path / "seed"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CannotStart, match=f"nkeySeedFile {path}") as caught:
        made(nkey_seed_file=str(path))
    assert "SUAB" not in str(caught.value) and "however" not in str(caught.value)


def test_a_credentials_file(tmp_path: Path) -> None:
    """Read at each use: what is there now counts."""
    path = tmp_path / "user.creds"
    path.write_text(Operator().credentials())
    arguments = made(credentials_file=str(path)).arguments
    key = new_key()
    path.write_text(credentials_file("the.new.jwt", key.seed))
    assert arguments["user_jwt_cb"]() == b"the.new.jwt"
    signature = base64.b64decode(arguments["signature_cb"]("nonce"))
    assert nkeys.from_seed(bytearray(key.seed.encode())).verify(b"nonce", signature)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no such file"),
        ("", "no NATS credentials file"),
        ("-----BEGIN NATS USER JWT-----\n", "no NATS credentials file"),
        ("-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n", "no NATS credentials file"),
        (credentials_file("a.b.c", "SUWRONGWRONG"), "no valid user seed"),
    ],
)
def test_a_credentials_file_that_cannot_be_used(tmp_path: Path, content: str | None, why: str) -> None:
    """Refused at the start with key and path; at a reconnect it is an error that the next attempt survives."""
    path = tmp_path / "user.creds"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CannotStart, match=why) as caught:
        made(credentials_file=str(path))
    assert f"credentialsFile {path}" in str(caught.value) and "WRONG" not in str(caught.value)
    with pytest.raises(errors.Error, match=why):
        CredentialsFile(str(path)).sign("nonce")


def test_tls(authority: Path) -> None:
    """By its section or by the scheme; its own authorities replace the machine's; verification is always on."""
    found = made(tls=Tls(ca_file=str(authority / "ca.pem"), server_name="nats.test", handshake_first=True))
    context = found.arguments["tls"]
    assert found.wants_tls and context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname
    assert [dict(part[0] for part in ca["subject"]) for ca in context.get_ca_certs()] == [
        {"commonName": "authority of tests"}
    ]
    assert found.arguments["tls_hostname"] == "nats.test" and found.arguments["tls_handshake_first"] is True
    by_scheme = made("nats://h", "tls://i")
    assert by_scheme.wants_tls and by_scheme.arguments["tls_handshake_first"] is False
    assert "tls_hostname" not in by_scheme.arguments


def test_a_clients_certificate(authority: Path, tmp_path: Path) -> None:
    """With its key in a file of its own, or in the same one."""
    both = tmp_path / "both.pem"
    both.write_bytes((authority / "client.pem").read_bytes() + (authority / "client.key").read_bytes())
    made(tls=Tls(cert_file=str(both)))
    made(tls=Tls(cert_file=str(authority / "client.pem"), key_file=str(authority / "client.key")))


def test_tls_files_that_cannot_be_used(authority: Path, tmp_path: Path) -> None:
    """Missing, no certificate, another's key: all files of the section are named, and what is wrong."""
    (tmp_path / "empty").write_text("")
    client, server_key = authority / "client.pem", authority / "server.key"
    for tls, why in (
        (Tls(ca_file=str(tmp_path / "none")), "none: no such file"),
        (Tls(ca_file=str(tmp_path / "empty")), "empty: TLS failed: no certificate or crl found"),
        (Tls(cert_file=str(client), key_file=str(server_key)), "server.key: TLS failed: key values mismatch"),
    ):
        with pytest.raises(CannotStart, match=why):
            made(tls=tls)


def test_a_private_key_under_a_password(authority: Path) -> None:
    """Refused; nobody is asked for it on the terminal."""
    encrypted = certificates.encrypt_key(authority / "client.key")
    begin = time.monotonic()
    with pytest.raises(CannotStart, match="private key is encrypted"):
        made(tls=Tls(cert_file=str(authority / "client.pem"), key_file=str(encrypted)))
    assert time.monotonic() - begin < 5


def tls_error(known_as: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {known_as}] some text (_ssl.c:1)")
    error.reason = known_as
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "connection lost"),
        (ConnectionRefusedError(111, "Connect call failed ('10.0.0.1', 4222)"), "connection refused"),
        (ConnectionResetError("Connection lost"), "connection lost"),
        (BrokenPipeError(32, "x"), "broken pipe"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 99] no"), "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (TimeoutError(), "no answer in time"),
        (errors.Error("nats: 'Authorization Violation'"), "Authorization Violation"),
        (errors.Error("nats: maximum payload violation"), "maximum payload violation"),
        (errors.StaleConnectionError(), "the server does not answer pings"),
        (errors.UnexpectedEOF(), "the server closed the connection"),
        (errors.ProtocolError(), "what answers does not speak NATS"),
        (errors.SecureConnWantedError(), "the server offers no TLS, which the connection asks for"),
        (tls_error("WRONG_VERSION_NUMBER"), "TLS failed: wrong version number"),
        (tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "the server ended TLS: certificate required"),
        (tls_error(""), "TLS failed: protocol error"),
        (ValueError("holds whatever"), "ValueError"),
        (errors.Error("nats: a\r\nb\x1b[31m"), "a  b [31m"),
        (errors.Error("nats: " + "x" * 500), "x" * 200),
    ],
    ids=str,
)
def test_reasons(error: Exception | None, words: str) -> None:
    """Short, on one line; of an unknown error only the kind, for its text may hold anything."""
    assert reason(error) == words


def test_reasons_hold_no_secrets() -> None:
    """Whatever the server repeats; what is too short to be a secret is left alone."""
    error = errors.Error("nats: user ann with hunter22 and hunter2233 and x")
    said = reason(error, ("hunter22", "hunter2233", "x"))
    assert said == "user ann with [redacted] and [redacted] and x"
    assert "hunt" not in reason(errors.Error("nats: " + "y" * 195 + "hunter22"), ("hunter22",))
