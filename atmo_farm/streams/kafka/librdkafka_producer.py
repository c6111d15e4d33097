"""The driver on librdkafka: its producer."""

from __future__ import annotations

from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from atmo_farm.errors import PublishError
from atmo_farm.streams.kafka import librdkafka_client as client
from atmo_farm.streams.kafka.driver import Outgoing, Result
from atmo_farm.streams.kafka.options import Options

LINGER_S = 0.02
"""Until the flush that follows, or the first record of many would go out alone."""
LARGEST_RECORD = 64 << 20
"""The broker's and the topic's own limits are below it, as a rule."""
TOPIC_TIMEOUT_S = 2.0
"""How long a record waits for a topic that nobody knows."""
DELIVERY_TIMEOUT_S = 120.0
"""After which a record that no broker takes is a failed one."""
ALONE_TIMEOUT_S = 10.0

_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_FOR_NOW = {KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._PURGE_QUEUE, *_UNKNOWN}

Decided = list[tuple[Outgoing, Any]]


class LibrdkafkaProducer:
    """`driver.Producer`. BrokerUnavailable when no broker lets it in within a few seconds."""

    def __init__(self, options: Options):
        self._options = options
        self._taken: list[Outgoing] = []
        self._waiting = 0
        """Records that the library has."""
        self._decided: Decided = []
        self._producer: Any = None
        self._connect()

    def send(self, record: Outgoing) -> None:
        """As the protocol says."""
        self._taken.append(record)

    def flush(self, timeout_s: float) -> list[Result]:
        """As the protocol says.

        One record that is too large fails all that are in a batch with it: those that failed so are sent again one by
        one, to tell the others from the one.
        """
        taken, self._taken = self._taken, []
        for record in taken:
            self._hand_over(record)
        decided = self._wait(timeout_s)
        suspects = [record for record, error in decided if _is(error, KafkaError.MSG_SIZE_TOO_LARGE)]
        results: list[Result] = []
        for record, error in decided:
            if len(suspects) > 1 and _is(error, KafkaError.MSG_SIZE_TOO_LARGE):
                self._hand_over(record)
                results += [self._result(*one) for one in self._wait(ALONE_TIMEOUT_S)]
            else:
                results.append(self._result(record, error))
        if any(error is not None and error.fatal() for _, error in decided):
            self.close()
            self._connect()
        return results

    def trouble(self) -> str:
        """As the protocol says; nobody needs a broker while nothing is to be sent."""
        return self._connection.trouble() if self._waiting else ""

    def close(self) -> None:
        """As the protocol says."""
        self._producer.purge()
        self._producer.flush(0)

    def _connect(self) -> None:
        self._producer, self._connection = made(self._options, delivery_timeout_ms=round(DELIVERY_TIMEOUT_S * 1000))

    def _hand_over(self, record: Outgoing) -> None:
        decide = partial(self._decide, record)
        try:
            self._producer.produce(record.topic, record.value, record.key, headers=record.headers, on_delivery=decide)
            self._waiting += 1
        except KafkaException as error:
            self._decided.append((record, error.args[0]))
        except BufferError:
            self._decided.append((record, KafkaError(KafkaError._QUEUE_FULL)))

    def _decide(self, record: Outgoing, error: Any, _message: Any) -> None:
        self._waiting -= 1
        self._decided.append((record, error))

    def _wait(self, timeout_s: float) -> Decided:
        if self._waiting:
            try:
                client.flush(self._producer, timeout_s)
            except KafkaException as failed:
                raise client.wrapped(failed.args[0], self._options) from failed
        decided, self._decided = self._decided, []
        return decided

    def _result(self, record: Outgoing, error: Any) -> Result:
        return (record, None if error is None else verdict(record, error, self._options))


def made(options: Options, **own: Any) -> tuple[Producer, client.Connection]:
    """A producer of the library, connected, and what it is told of that; `own`: configuration beside what all have."""
    connection = client.Connection(options)
    producer = Producer(
        connection.configuration(
            acks="all",
            enable_idempotence=True,
            linger_ms=round(LINGER_S * 1000),
            message_max_bytes=LARGEST_RECORD,
            topic_metadata_propagation_max_ms=round(TOPIC_TIMEOUT_S * 1000),
            partitioner="murmur2_random",  # as all other clients do it
            **own,
        )
    )
    try:
        producer.list_topics("", timeout=client.BOOTSTRAP_TIMEOUT_S)
    except KafkaException as error:
        producer.poll(0)  # what was told meanwhile
        raise connection.not_let_in(error.args[0]) from error
    return producer, connection


def verdict(record: Outgoing, error: Any, options: Options) -> PublishError:
    """Why a record was refused, in an operator's terms."""
    code = error.code()
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        words = f"{record.size} bytes are more than topic {record.topic!r} takes (max.message.bytes)"
    elif code in _UNKNOWN:
        words = f"topic {record.topic!r} does not exist, or has no leader, or this user may not see it"
    elif code == KafkaError.TOPIC_EXCEPTION:
        words = f"cannot publish on topic {record.topic!r}: the name is not legal"
    else:
        words = client.reason(error, options)
    transient = error.retriable() or code in _FOR_NOW or code == KafkaError._QUEUE_FULL
    return PublishError(words, transient=transient)


def _is(error: Any, code: int) -> bool:
    return error is not None and bool(error.code() == code)
