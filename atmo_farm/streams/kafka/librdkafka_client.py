"""What the consumer and the producer on librdkafka (confluent-kafka) share: configuration, errors, who is connected."""

from __future__ import annotations

import logging
import re
from typing import Any

import msgspec
from confluent_kafka import KafkaError

from atmo_farm.errors import AtmoFarmError
from atmo_farm.log.redact import Redactor
from atmo_farm.streams.kafka.driver import BrokerRefused, BrokerUnavailable, Fenced
from atmo_farm.streams.kafka.options import Options

BOOTSTRAP_TIMEOUT_S = 3.0
REQUEST_TIMEOUT_S = 12.0
"""A broker that is silent so long is taken for gone."""
RECONNECT_MAX_S = 1.0
STATISTICS_S = 0.5
LONGEST_REASON = 200
"""Characters."""

_SILENT = logging.getLogger("atmo_farm.librdkafka")
_SILENT.setLevel(logging.CRITICAL + 1)
_PREFIX = re.compile(r"^\S+?/(?:bootstrap|\d+|GroupCoordinator): ")
_SUFFIX = re.compile(r" \(after \d+ms in state [A-Z_]+.*\)$")

_REFUSED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    KafkaError._UNSUPPORTED_FEATURE,
    KafkaError._FATAL,
}


class _Broker(msgspec.Struct):
    nodeid: int
    state: str


class _Statistics(msgspec.Struct):
    brokers: dict[str, _Broker]


_statistics = msgspec.json.Decoder(_Statistics)


class Connection:
    """What a client of the library is told of its connections, when it is polled."""

    def __init__(self, options: Options):
        self._options = options
        self._kept: Any = None
        """The most telling error since a broker was connected."""
        self._up = True

    def configuration(self, **own: Any) -> dict[str, Any]:
        """In the library's terms; of `own`, `_` stands for `.`."""
        options = self._options
        given: dict[str, Any] = {
            "bootstrap.servers": ",".join(options.servers),
            "client.id": options.client_id,
            "security.protocol": options.protocol,
            "socket.timeout.ms": round(REQUEST_TIMEOUT_S * 1000),
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": round(RECONNECT_MAX_S * 1000),
            "statistics.interval.ms": round(STATISTICS_S * 1000),
            "stats_cb": self._heard,
            "error_cb": self._failed,
            "logger": _SILENT,
        }
        if options.mechanism:
            given |= {
                "sasl.mechanism": options.mechanism,
                "sasl.username": options.username,
                "sasl.password": options.password,
            }
        if options.tls is not None:
            files = {
                "ssl.ca.location": options.tls.ca_file,
                "ssl.certificate.location": options.tls.cert_file,
                "ssl.key.location": options.tls.key_file,
            }
            given |= {key: file for key, file in files.items() if file}
        return given | {key if callable(value) else key.replace("_", "."): value for key, value in own.items()}

    def trouble(self) -> str:
        """Why no broker is connected; empty while one is."""
        return "" if self._up else self.complaint()

    def complaint(self) -> str:
        """Why the last connection failed or ended, as one short line."""
        return "no broker is connected" if self._kept is None else reason(self._kept, self._options)

    def not_let_in(self, error: Any) -> BrokerUnavailable:
        """The error for a client that could not connect."""
        if error.code() == KafkaError._UNSUPPORTED_FEATURE:
            return BrokerUnavailable("what answers is no broker (a controller?), or one that is too old")
        if self._kept is None and not self._options.tls and not self._options.mechanism:
            return BrokerUnavailable(
                "the broker closed the connection: does it want TLS or a login (securityProtocol, sasl, tls)?"
            )
        return BrokerUnavailable(self.complaint())

    def _heard(self, text: str) -> None:
        brokers = _statistics.decode(text).brokers.values()
        self._up = any(broker.state == "UP" and broker.nodeid >= 0 for broker in brokers)
        if self._up:
            self._kept = None

    def _failed(self, error: Any) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN and (self._kept is None or not _says_little(error)):
            self._kept = error


def flush(producer: Any, timeout_s: float) -> None:
    """`Producer.flush`. KafkaException for a fatal error: the library raises it before it calls anybody else."""
    try:
        producer.flush(timeout_s)
    except SystemError as error:
        raise error.__cause__ or error from error


_FENCED = (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED)


def wrapped(error: Any, options: Options) -> AtmoFarmError:
    """The library's error in the driver's terms."""
    is_fatal = error.code() == KafkaError._FATAL  # then only the words tell what was
    if error.code() in _FENCED or (is_fatal and "fenced" in error.str()):
        return Fenced("another process has joined the group with this worker's id")
    refused = error.fatal() or error.code() in _REFUSED
    return (BrokerRefused if refused else BrokerUnavailable)(reason(error, options))


def reason(error: Any, options: Options) -> str:
    """What went wrong as one short line without secrets."""
    words = Redactor(options.secrets).head(_words(error, options), LONGEST_REASON)
    return "".join(character if character.isprintable() else " " for character in words)[:LONGEST_REASON]


def _words(error: Any, options: Options) -> str:
    code, text = error.code(), _SUFFIX.sub("", _PREFIX.sub("", re.sub(r"^\w+://", "", error.str())))
    if code == KafkaError._AUTHENTICATION and "not valid in current SASL state" in text:
        return "the broker asks for no login on this port: leave out `sasl`, or use another port"
    if code == KafkaError._AUTHENTICATION and "mechanism handshake failed" in text:
        return f"the broker does not offer SASL {options.mechanism}"
    if code == KafkaError._AUTHENTICATION:
        return f"the broker refuses the login of {options.username!r}: wrong user name or password"
    if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return f"{options.username or 'this user'!r} may not use this topic"
    if code == KafkaError.GROUP_AUTHORIZATION_FAILED:
        return f"{options.username or 'this user'!r} may not use this consumer group"
    if code == KafkaError._SSL and "certificate verify failed" in text:
        return "the broker's certificate is not accepted: " + text.partition("verify failed: ")[2]
    if code == KafkaError._RESOLVE:
        return "no address for the broker's name"
    if "Connection refused" in text:
        return "connection refused"
    if code in (KafkaError._TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError.REQUEST_TIMED_OUT):
        return "no answer in time"
    return text.removeprefix("Local: ").removeprefix("Broker: ")


def _says_little(error: Any) -> bool:
    return bool(error.code() in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT))
