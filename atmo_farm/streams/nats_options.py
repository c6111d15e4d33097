"""A Directive's NATS connection in nats-py's terms, and nats-py's errors in an operator's terms."""

from __future__ import annotations

import base64
import os
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import nkeys  # type: ignore[import-untyped]
from nats import errors

from atmo_farm.directive.connections import NatsConnection, Tls, Value
from atmo_farm.errors import CannotStart
from atmo_farm.log.redact import Redactor

DEFAULT_PORT = 4222
_JWT = re.compile(rb"-----BEGIN NATS USER JWT-----\s+(\S+)")
_SEED = re.compile(rb"-----BEGIN USER NKEY SEED-----\s+(\S+)")
_ERRNO = re.compile(r"\[Errno (\d+)\]")

LONGEST_REASON = 200
"""Characters."""

_KNOWN: dict[type[Exception], str] = {
    errors.SecureConnWantedError: "the server offers no TLS, which the connection asks for",
    errors.UnexpectedEOF: "the server closed the connection",
    errors.StaleConnectionError: "the server does not answer pings",
    errors.ProtocolError: "what answers does not speak NATS",
}
"""In words of our own; a kind stands before those that it is one of."""


@attrs.frozen
class Options:
    """What a client needs to get in. `arguments` are keyword arguments of `nats.aio.client.Client.connect`."""

    arguments: dict[str, Any] = attrs.field(repr=False)
    wants_tls: bool
    """No credentials are sent over a connection without TLS."""
    secrets: tuple[str, ...] = attrs.field(repr=False)
    """Values that no text may show."""


class CredentialsFile:
    """A user's JWT and seed, read at each connect so that a rotated file counts.

    nats-py's own reader loops for ever over a file without a JWT.
    """

    def __init__(self, path: str):
        self._path = path

    def jwt(self) -> bytes:
        """The JWT; nats.errors.Error, which a reconnect survives, when the file is not what it should be."""
        return self._find(_JWT)

    def sign(self, nonce: str) -> bytes:
        """The nonce's signature in base64; raises as `jwt` does."""
        self._find(_JWT)
        try:
            pair = nkeys.from_seed(bytearray(self._find(_SEED)))
            return base64.b64encode(pair.sign(nonce.encode()))
        except errors.Error:
            raise
        except Exception as error:
            raise errors.Error(f"credentialsFile {self._path} holds no valid user seed") from error

    def _find(self, pattern: re.Pattern[bytes]) -> bytes:
        try:
            found = pattern.search(Path(self._path).read_bytes())
        except OSError as error:
            raise errors.Error(f"credentialsFile {self._path}: {reason(error)}") from error
        if found is None:
            raise errors.Error(f"credentialsFile {self._path} is no NATS credentials file (a user JWT and a seed)")
        return found[1]


def options(connection: NatsConnection, client_name: str) -> Options:
    """The options of a resolved connection; CannotStart names the key and the file that cannot be used as it is."""
    where = f"connection {connection.name!r} (nats)"
    addresses = [_address(text(value), where) for value in connection.server_addresses]
    urls = [urlsplit(address) for address in addresses]
    user, password, token = text(connection.user), text(connection.password), text(connection.token)
    in_address = {(url.username, url.password) for url in urls if url.username is not None}
    if len(in_address) == 1 and not (user or token):
        (name, secret) = in_address.pop()
        if secret is None:
            token = unquote(name or "")
        else:
            user, password = unquote(name or ""), unquote(secret)
        addresses = [url._replace(netloc=url.netloc.rpartition("@")[2]).geturl() for url in urls]
    arguments: dict[str, Any] = {"servers": addresses, "name": text(connection.client_name) or client_name}
    if user:
        arguments |= {"user": user, "password": password}
    if token:
        arguments["token"] = token
    if connection.credentials_file:
        credentials = CredentialsFile(text(connection.credentials_file))
        try:
            credentials.sign("")
        except errors.Error as error:
            raise CannotStart(f"{where}: {error}") from error
        arguments |= {"user_jwt_cb": credentials.jwt, "signature_cb": credentials.sign}
    if connection.nkey_seed_file:
        arguments["nkeys_seed_str"] = _seed_file(text(connection.nkey_seed_file), where)
    if connection.inbox_prefix:
        arguments["inbox_prefix"] = text(connection.inbox_prefix)
    wants_tls = connection.tls is not None or any(url.scheme == "tls" for url in urls)
    if wants_tls:
        arguments |= _tls(connection.tls or Tls(), where)
    in_urls = (unquote(url.username if url.password is None else url.password) for url in urls if url.username)
    secrets = {password, token, arguments.get("nkeys_seed_str", ""), *in_urls}
    return Options(arguments, wants_tls, tuple(secret for secret in secrets if secret))


def text(value: Value) -> str:
    """The text of a value that `references.resolve` has resolved."""
    if not isinstance(value, str):
        raise TypeError(f"{value} is not resolved")
    return value


def reason(error: BaseException | None, secrets: tuple[str, ...] = ()) -> str:
    """What went wrong as one short line without secrets: of errors that are not known, only the kind."""
    words = Redactor(secrets).head(_words(error), LONGEST_REASON)
    return "".join(character if character.isprintable() else " " for character in words)[:LONGEST_REASON]


def _words(error: BaseException | None) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return _tls_words(error.reason or "")
    for kind, words in _KNOWN.items():
        if isinstance(error, kind):
            return words
    if isinstance(error, errors.Error) and str(error):
        return str(error).removeprefix("nats: ").strip(" '")
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return _system_words(error)
    return type(error).__name__ if error else "connection lost"


def _tls_words(known_as: str) -> str:
    """OpenSSL's name of an error; an alert is what the other end has to say."""
    _, alert, said = known_as.partition("_ALERT_")
    words = (said if alert else known_as).replace("_", " ").lower() or "protocol error"
    return f"the server ended TLS: {words}" if alert else f"TLS failed: {words}"


def _system_words(error: OSError) -> str:
    """The system's own words; where a host has several addresses, those for the first that failed."""
    several = _ERRNO.search(str(error)) if error.errno is None else None
    number = int(several[1]) if several else error.errno
    if number is not None and number > 0:
        return os.strerror(number).lower()
    return error.strerror or "connection lost"


def _address(address: str, where: str) -> str:
    address = address.strip()
    full = address if "://" in address else f"nats://{address}"
    try:
        url = urlsplit(full)
        host, port = url.hostname, url.port
    except ValueError:
        host, port = None, None
    if url_problem := ("" if host else "is no address: write host or host:port"):
        raise CannotStart(f"{where}: serverAddress {url_problem}")
    if url.scheme not in ("nats", "tls"):
        raise CannotStart(f"{where}: serverAddress has the scheme {url.scheme!r}: nats:// and tls:// are served")
    return full if port else f"{full.rstrip(':/')}:{DEFAULT_PORT}"


def _seed_file(path: str, where: str) -> str:
    """The seed itself: a file that is gone or changed later must not end the attempts to reconnect."""
    try:
        seed = Path(path).read_bytes().strip()
        nkeys.from_seed(bytearray(seed)).wipe()
        return seed.decode()
    except OSError as error:
        raise CannotStart(f"{where}: nkeySeedFile {path}: {reason(error)}") from error
    except Exception as error:
        raise CannotStart(f"{where}: nkeySeedFile {path} holds no valid user seed") from error


def _no_password() -> str:
    """OpenSSL would ask for it on the terminal."""
    raise ValueError("the private key is encrypted: only one without a password can be used")


def _tls(tls: Tls, where: str) -> dict[str, Any]:
    try:
        context = ssl.create_default_context(cafile=text(tls.ca_file) or None)
        if tls.cert_file:
            context.load_cert_chain(text(tls.cert_file), text(tls.key_file) or None, password=_no_password)
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        files = ", ".join(text(file) for file in (tls.ca_file, tls.cert_file, tls.key_file) if file)
        raise CannotStart(f"{where}: tls: cannot use {files}: {why}") from error
    arguments: dict[str, Any] = {"tls": context, "tls_handshake_first": tls.handshake_first}
    if tls.server_name:
        arguments["tls_hostname"] = text(tls.server_name)
    return arguments
