"""What kafka-python's consumer and producer share: connecting, and its errors in an operator's terms."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from kafka import errors
from kafka.net.compat import KafkaNetClient

from atmo_farm.errors import AtmoFarmError
from atmo_farm.log.redact import Redactor
from atmo_farm.streams.kafka.driver import BrokerRefused, BrokerUnavailable, Fenced
from atmo_farm.streams.kafka.options import Options, tls_context

BOOTSTRAP_TIMEOUT_S = 3.0
REQUEST_TIMEOUT_S = 12.0
"""A broker that is silent so long is taken for gone."""
RECONNECT_MAX_S = 1.0
LONGEST_REASON = 200
"""Characters."""

_LOST = logging.getLogger("kafka.net.connection")
_ERRNO = re.compile(r"^\d+ (E[A-Z]+)$")
_CERTIFICATE = re.compile(r"certificate verify failed: (.+?) \(_ssl")
_TLS = re.compile(r"Handshake failed: \[SSL: ([A-Z_]+)\]")


class _Complaints(logging.Handler):
    """The library tells only its log why connections fail: the most telling of what was said there since `clear`.

    A login that is refused, for one, may look like a mere disconnection the next time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: BaseException | None = None

    def clear(self) -> None:
        """Begin anew."""
        self.kept = None

    def emit(self, record: logging.LogRecord) -> None:
        said = next((one for one in record.args or () if isinstance(one, BaseException)), None)
        if said is not None and (self.kept is None or not _says_little(said)):
            self.kept = said


_complaints = _Complaints()


def connect(
    kind: Callable[..., Any], options: Options, network: type[KafkaNetClient] = KafkaNetClient, **configuration: Any
) -> tuple[Any, KafkaNetClient]:
    """A consumer or producer of the library, connected, and its network client, which is a `network`."""
    _mind_its_log()
    made: list[KafkaNetClient] = []

    def make(**given: Any) -> KafkaNetClient:
        made.append(network(**given))
        return made[-1]

    if options.tls is not None:
        configuration["ssl_context"] = tls_context(options.tls, options.where)
    if options.mechanism:
        configuration |= {
            "sasl_mechanism": options.mechanism,
            "sasl_plain_username": options.username,
            "sasl_plain_password": options.password,
        }
    _complaints.clear()
    try:
        whole = kind(
            bootstrap_servers=list(options.servers),
            client_id=options.client_id,
            security_protocol=options.protocol,
            kafka_client=make,
            bootstrap_timeout_ms=round(BOOTSTRAP_TIMEOUT_S * 1000),
            request_timeout_ms=round(REQUEST_TIMEOUT_S * 1000),
            reconnect_backoff_max_ms=round(RECONNECT_MAX_S * 1000),
            **configuration,
        )
    except errors.KafkaError as error:
        for one in made:  # else its thread and its sockets stay
            one.close()
        timed_out = isinstance(error, errors.KafkaTimeoutError)
        raise BrokerUnavailable(_not_let_in(options) if timed_out else reason(error, options)) from error
    return whole, made[0]


def is_connected(network: KafkaNetClient) -> bool:
    """Whether some broker is."""
    if any(network.connected(broker.node_id) for broker in network.cluster.brokers()):
        _complaints.clear()
        return True
    return False


def complaint(options: Options) -> str:
    """Why the last connection failed or ended, as one short line."""
    return reason(_complaints.kept, options)


def wrapped(error: errors.KafkaError, options: Options) -> AtmoFarmError:
    """The library's error in the driver's terms."""
    words = reason(error, options)
    if isinstance(error, errors.FencedInstanceIdError):
        return Fenced("another process has joined the group with this worker's id")
    return (BrokerUnavailable if error.retriable else BrokerRefused)(words)


def reason(error: BaseException | None, options: Options) -> str:
    """What went wrong as one short line without secrets."""
    words = Redactor(options.secrets).head(_words(error, options), LONGEST_REASON)
    return "".join(character if character.isprintable() else " " for character in words)[:LONGEST_REASON]


def _not_let_in(options: Options) -> str:
    if _complaints.kept is None or not _is_disconnection(_complaints.kept):
        return complaint(options)
    if options.mechanism:
        return f"the broker refuses the login of {options.username!r}: wrong user name or password"
    return "the broker closed the connection: does it want TLS or a login (securityProtocol, sasl, tls)?"


def _is_disconnection(error: BaseException) -> bool:
    return isinstance(error, errors.KafkaConnectionError) and "disconnected" in str(error)


def _says_little(error: BaseException) -> bool:
    return _is_disconnection(error) or isinstance(error, errors.RequestTimedOutError)


def _words(error: BaseException | None, options: Options) -> str:
    if error is None:
        return "no broker is connected"
    text = str(error.args[0]) if error.args and error.args[0] is not None else ""
    if isinstance(error, errors.SaslAuthenticationFailedError):
        return f"the broker refuses the login of {options.username!r}: wrong user name or password"
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return f"the broker does not offer SASL {options.mechanism}"
    if isinstance(error, errors.IllegalSaslStateError):
        return "the broker asks for no login on this port: leave out `sasl`, or use another port"
    if isinstance(error, errors.InvalidReceiveError):
        return "what answers does not speak Kafka: does it want TLS (securityProtocol SSL)?"
    if isinstance(error, errors.IncompatibleBrokerVersion):
        return "what answers is no broker (a controller?), or one that is too old"
    if isinstance(error, errors.TopicAuthorizationFailedError):
        return f"{options.username or 'this user'!r} may not use topic {_names(text)}"
    if isinstance(error, errors.GroupAuthorizationFailedError):
        return f"{options.username or 'this user'!r} may not use the consumer group {text}".rstrip()
    if isinstance(error, errors.RequestTimedOutError | errors.KafkaTimeoutError):
        return "no answer in time"
    return _connection_words(text) or f"{type(error).__name__}: {text}".rstrip(": ")


def _connection_words(text: str) -> str:
    if number := _ERRNO.match(text):
        return {"ECONNREFUSED": "connection refused"}.get(number[1], number[1])
    if certificate := _CERTIFICATE.search(text):
        return f"the broker's certificate is not accepted: {certificate[1]}"
    if tls := _TLS.search(text):
        return f"TLS failed: {tls[1].replace('_', ' ').lower()}"
    if "DNS" in text:
        return "no address for the broker's name"
    return "the broker closed the connection" if "disconnected" in text else ""


def _names(text: str) -> str:
    return text.strip("{}") or "?"


def _mind_its_log() -> None:
    """Its complaints are repeated by the hundred during an outage: they go to `_complaints` alone."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    _LOST.setLevel(logging.WARNING)
    _LOST.propagate = False
    if _complaints not in _LOST.handlers:
        _LOST.addHandler(_complaints)
