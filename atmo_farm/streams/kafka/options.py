"""A Directive's Kafka connection, checked, in terms that every driver understands."""

from __future__ import annotations

import os
import ssl

import attrs

from atmo_farm.directive import addresses
from atmo_farm.directive.connections import KafkaConnection, Tls, Value
from atmo_farm.errors import CannotStart


@attrs.frozen
class Options:
    """Where the brokers are and how to get in. Files are PEM and can be read."""

    where: str
    """`kafka default`, as log lines and waits name the connection."""
    servers: tuple[str, ...]
    client_id: str
    tls: Tls | None
    mechanism: str
    """Of SASL; empty: no login."""
    username: str
    password: str = attrs.field(repr=False)

    @property
    def protocol(self) -> str:
        """Kafka's `security.protocol`."""
        return ("SASL_" if self.mechanism else "") + ("SSL" if self.tls else "PLAINTEXT")

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no text may show."""
        return (self.password,) if self.password else ()


def options(connection: KafkaConnection, client_id: str) -> Options:
    """The options of a resolved connection; CannotStart names the key that cannot be used as it is."""
    where = f"connection {connection.name!r} (kafka)"
    protocol = _text(connection.security_protocol)
    mechanism, tls = _text(connection.sasl_mechanism), connection.tls
    if not protocol:
        protocol = ("SASL_" if mechanism else "") + ("SSL" if tls else "PLAINTEXT")
    if protocol.startswith("SASL_") != bool(mechanism):
        missing = "write `sasl`" if not mechanism else "it leaves no place for `sasl`"
        raise CannotStart(f"{where}: securityProtocol is {protocol}: {missing}")
    if protocol.endswith("SSL"):
        tls = tls or Tls()
    elif tls is not None:
        raise CannotStart(f"{where}: securityProtocol is {protocol}: it leaves no place for `tls`")
    username, password = _text(connection.sasl_username), _text(connection.sasl_password)
    if mechanism and not (username and password):
        raise CannotStart(f"{where}: sasl: {mechanism} needs `username` and `password`")
    if mechanism not in ("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise CannotStart(f"{where}: sasl: mechanism {mechanism} is not served; PLAIN and SCRAM are")
    if tls is not None:
        tls_context(tls, where)
    try:
        servers = tuple(one for value in connection.broker_addresses for one in addresses.kafka(_text(value)))
    except ValueError as error:
        raise CannotStart(f"{where}: brokerAddress {error}") from error
    name = _text(connection.client_id) or client_id
    return Options(f"kafka {connection.name}", servers, name, tls, mechanism, username, password)


def tls_context(tls: Tls, where: str) -> ssl.SSLContext:
    """Python's own TLS with these files; CannotStart says which cannot be used."""
    if _text(tls.server_name):
        raise CannotStart(f"{where}: tls: serverName is not served for Kafka: brokers name each other by their hosts")
    try:
        context = ssl.create_default_context(cafile=_text(tls.ca_file) or None)
        if tls.cert_file:
            context.load_cert_chain(_text(tls.cert_file), _text(tls.key_file) or None, password=_no_password)
    except (OSError, ValueError) as error:
        system = isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno
        why = os.strerror(system).lower() if system else getattr(error, "reason", None) or str(error)
        files = ", ".join(_text(file) for file in (tls.ca_file, tls.cert_file, tls.key_file) if file)
        raise CannotStart(f"{where}: tls: cannot use {files}: {why}") from error
    return context


def _no_password() -> str:
    """OpenSSL would ask for it on the terminal."""
    raise ValueError("the private key is encrypted: only one without a password can be used")


def _text(value: Value) -> str:
    """The text of a value that `references.resolve` has resolved."""
    if not isinstance(value, str):
        raise TypeError(f"{value} is not resolved")
    return value
