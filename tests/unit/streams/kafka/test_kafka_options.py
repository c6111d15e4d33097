"""A Directive's Kafka connection in terms that every driver understands, and what is said of one that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo_farm.directive.connections import KafkaConnection, Tls
from atmo_farm.errors import CannotStart
from atmo_farm.streams.kafka.options import options

LOGIN = {"sasl_mechanism": "SCRAM-SHA-256", "sasl_username": "u", "sasl_password": "canary"}


def connection(**keys: object) -> KafkaConnection:
    given = {"name": "eu", "broker_addresses": ("one:1, two", "ssl://three:3"), **keys}
    return KafkaConnection(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "protocol"),
    [
        ({}, "PLAINTEXT"),
        ({"tls": Tls()}, "SSL"),
        ({"security_protocol": "SSL"}, "SSL"),
        (LOGIN, "SASL_PLAINTEXT"),
        ({**LOGIN, "tls": Tls()}, "SASL_SSL"),
        ({**LOGIN, "security_protocol": "SASL_SSL"}, "SASL_SSL"),
    ],
)
def test_the_protocol_follows_from_what_is_given(keys: dict[str, object], protocol: str) -> None:
    """`securityProtocol` may be left out."""
    assert options(connection(**keys), "me").protocol == protocol


def test_addresses_and_names() -> None:
    """Each address with its port; the client's own id goes before the default; no password in a repr."""
    made = options(connection(**LOGIN), "default-id")
    assert made.servers == ("one:1", "two:9092", "three:3")
    assert (made.where, made.client_id) == ("kafka eu", "default-id")
    assert options(connection(client_id="own"), "default-id").client_id == "own"
    assert "canary" not in repr(made) and made.secrets == ("canary",)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"security_protocol": "SASL_SSL"}, "securityProtocol is SASL_SSL: write `sasl`"),
        ({**LOGIN, "security_protocol": "SSL"}, "securityProtocol is SSL: it leaves no place for `sasl`"),
        ({"tls": Tls(), "security_protocol": "PLAINTEXT"}, "it leaves no place for `tls`"),
        ({**LOGIN, "sasl_password": ""}, "SCRAM-SHA-256 needs `username` and `password`"),
        ({**LOGIN, "sasl_mechanism": "GSSAPI"}, "mechanism GSSAPI is not served"),
        ({"tls": Tls(server_name="x")}, "serverName is not served for Kafka"),
        ({"tls": Tls(ca_file="/no/such.pem")}, "tls: cannot use /no/such.pem: no such file or directory"),
        ({"broker_addresses": ("ftp://x",)}, "brokerAddress has an unknown scheme"),
    ],
)
def test_what_cannot_be_is_said_with_its_key(keys: dict[str, object], words: str) -> None:
    """Before anything is connected."""
    with pytest.raises(CannotStart) as raised:
        options(connection(**keys), "me")
    assert words in str(raised.value)
    assert str(raised.value).startswith("connection 'eu' (kafka): ")


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    """With what is wrong with them."""
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    with pytest.raises(CannotStart, match=f"tls: cannot use {file}: "):
        options(connection(tls=Tls(ca_file=str(file))), "me")
