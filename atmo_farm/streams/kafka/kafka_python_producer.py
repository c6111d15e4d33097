"""The driver on kafka-python: its producer, with what keeps the library's faults from the stream.

As with the consumer: make it in the process, and use it from the thread, that needs it.
"""

from __future__ import annotations

from typing import Any

from kafka import KafkaProducer, errors
from kafka.net.compat import KafkaNetClient
from kafka.partitioner.default import DefaultPartitioner

from atmo_farm import clock
from atmo_farm.errors import PublishError
from atmo_farm.streams.kafka import kafka_python_client as client
from atmo_farm.streams.kafka.driver import BrokerUnavailable, Outgoing, Result
from atmo_farm.streams.kafka.options import Options

BATCH_BYTES = 128 << 10
"""More than what is sent between two flushes, as a rule: what counts for its speed."""
LINGER_S = 0.02
"""Until the flush that follows, or the first record of many would go out alone."""
LARGEST_RECORD = 64 << 20
"""The broker's and the topic's own limits are below it, as a rule."""
TOPIC_TIMEOUT_S = 2.0
"""How long a record waits for what the broker knows of its topic; nothing else is done meanwhile."""
TOPIC_AGAIN_S = 5.0
"""So long after that, records for this topic fail at once."""
DELIVERY_TIMEOUT_S = 120.0
"""After which a record that no broker takes is a failed one."""
ALONE_TIMEOUT_S = 10.0
CONNECTING_MS = 100.0
"""What happens on a connection wakes the sender; this is only how often it looks at what else there is."""

_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)


class KafkaPythonProducer:
    """`driver.Producer`. BrokerUnavailable when no broker lets it in within a few seconds."""

    def __init__(self, options: Options):
        self._options = options
        self._taken: list[Outgoing] = []
        """Not given to the library yet."""
        self._sent: list[tuple[Outgoing, Any]] = []
        """In order, with the library's futures."""
        self._silent: dict[str, float] = {}
        """Topic → until when it is not asked for again."""
        self._partitioner = OnePerFlush()
        self._producer: Any = None
        self._connect()

    def send(self, record: Outgoing) -> None:
        """As the protocol says."""
        self._taken.append(record)

    def flush(self, timeout_s: float) -> list[Result]:
        """As the protocol says.

        A record that the broker refuses makes an idempotent producer of the library fail every later one too. So the
        producer is replaced, and those that failed are sent again one by one, to tell the others from the one.
        """
        self._connect()
        results = self._hand_over()
        decided = self._settle(timeout_s)
        results += [(record, None) for record, error in decided if error is None]
        failed = [(record, error) for record, error in decided if error is not None]
        if failed:
            self._drop()
        alone = len(failed) > 1
        for record, error in failed:
            refused = alone and not _is_transient(error)
            results.append(self._alone(record) if refused else (record, verdict(record, error, self._options)))
        return results

    def trouble(self) -> str:
        """As the protocol says; nobody needs a broker while nothing is to be sent."""
        if not (self._sent or self._taken) or (self._producer is not None and client.is_connected(self._client)):
            return ""
        return client.complaint(self._options)

    def close(self) -> None:
        """As the protocol says."""
        producer, self._producer = self._producer, None
        if producer is not None:
            close(producer)

    def _connect(self) -> None:
        if self._producer is not None:
            return
        self._producer, self._client = made(self._options, self._partitioner)

    def _hand_over(self) -> list[Result]:
        """Give the library what was taken; returns those that it does not take."""
        taken, self._taken = self._taken, []
        self._partitioner.begin()
        refused: list[Result] = []
        send = self._producer.send
        for record in taken:
            if self._silent and clock.monotonic() < self._silent.get(record.topic, 0.0):
                refused.append((record, self._no_answer(record)))
                continue
            try:
                future = send(record.topic, record.value, record.key, record.headers)
            except errors.KafkaTimeoutError:
                self._silent[record.topic] = clock.monotonic() + TOPIC_AGAIN_S
                refused.append((record, self._no_answer(record)))
            except (errors.KafkaError, ValueError, TypeError) as error:  # an illegal name, a header that cannot be
                refused.append((record, verdict(record, error, self._options)))
            else:
                self._sent.append((record, future))
        return refused

    def _settle(self, timeout_s: float) -> list[tuple[Outgoing, Any]]:
        """Flush, and take out those that are decided, each with its error or None."""
        if not self._sent:
            return []
        try:
            self._producer.flush(timeout_s)
        except errors.KafkaError:  # not all are decided yet, or it has cut a batch in two: the futures tell
            pass
        waiting: list[tuple[Outgoing, Any]] = []
        decided: list[tuple[Outgoing, Any]] = []
        for record, future in self._sent:
            if future.is_done:
                decided.append((record, future.exception))
            else:
                waiting.append((record, future))
        self._sent = waiting
        return decided

    def _drop(self) -> None:
        """Do without this producer; what is under way is sent again by the next one."""
        self._taken = [record for record, _ in self._sent] + self._taken
        self._sent = []
        self.close()

    def _alone(self, record: Outgoing) -> Result:
        others, self._taken = self._taken, [record]
        try:
            self._connect()
            results = self._hand_over()
            decided = self._settle(ALONE_TIMEOUT_S)
        except BrokerUnavailable as error:
            return (record, PublishError(str(error), transient=True))
        finally:
            self._taken, late, self._sent = others, self._sent, []
        if results:
            return results[0]
        if late:
            self.close()
            return (record, self._no_answer(record))
        failure = decided[0][1]
        if failure is None:
            return (record, None)
        self.close()
        return (record, verdict(record, failure, self._options))

    def _no_answer(self, record: Outgoing) -> PublishError:
        if client.is_connected(self._client):
            return no_such_topic(record)
        return PublishError(client.complaint(self._options), transient=True)


class OnePerFlush(DefaultPartitioner):  # type: ignore[misc]
    """Records without a key are all in one partition until the next flush: larger batches, and less to think about."""

    def __init__(self) -> None:
        self._partitions: dict[str, int] = {}

    def begin(self) -> None:
        """Choose anew."""
        self._partitions.clear()

    def partition(self, topic: str, key: Any, key_bytes: bytes | None, *more: Any) -> int:
        """As the library's interface says."""
        if key_bytes is not None:
            return int(super().partition(topic, key, key_bytes, *more))
        found = self._partitions.get(topic)
        if found is None:
            found = self._partitions[topic] = int(super().partition(topic, key, key_bytes, *more))
        return found


class _Network(KafkaNetClient):  # type: ignore[misc]
    """The library's sender waits so long, in milliseconds, for a broker that is not ready. It is told seconds, and 0
    while a connection is being made: then it turns without a pause, on a core of its own."""

    def connection_delay(self, node_id: Any) -> float:
        """In milliseconds."""
        delay_ms = float(super().connection_delay(node_id)) * 1000
        return delay_ms if delay_ms or self.is_ready(node_id) else CONNECTING_MS


def made(options: Options, partitioner: OnePerFlush, **own: Any) -> tuple[Any, KafkaNetClient]:
    """A producer of the library, and its network client; `own`: configuration beside what all have."""
    producer, network = client.connect(
        KafkaProducer,
        options,
        _Network,
        metrics_enabled=False,
        acks="all",
        enable_idempotence=True,
        batch_size=BATCH_BYTES,
        linger_ms=round(LINGER_S * 1000),
        partitioner=partitioner,
        max_request_size=LARGEST_RECORD,
        max_block_ms=round(TOPIC_TIMEOUT_S * 1000),
        delivery_timeout_ms=round(DELIVERY_TIMEOUT_S * 1000),
        **own,
    )
    _calm(producer._metadata)
    return producer, network


def _calm(cluster: Any) -> None:
    """While a partition has no leader, the library's sender asks for new metadata in each of its turns, and is woken by
    that for another turn. What is asked for already is not asked for again so soon."""
    ask, asked_at = cluster.request_update, 0.0

    def request_update() -> Any:
        nonlocal asked_at
        now = clock.monotonic()
        if cluster.need_update and cluster._future is not None and now - asked_at < CONNECTING_MS / 1000:
            return cluster._future
        asked_at = now
        return ask()

    cluster.request_update = request_update


def close(producer: Any) -> None:
    """At once, whatever it still has."""
    try:
        producer.close(timeout=0)
    except errors.KafkaError:  # it flushes first, and stops at that when it cannot
        producer._sender.force_close()


def verdict(record: Outgoing, error: BaseException, options: Options) -> PublishError:
    """Why a record was refused, in an operator's terms."""
    if isinstance(error, _TOO_LARGE):
        words = f"{record.size} bytes are more than topic {record.topic!r} takes (max.message.bytes)"
    elif isinstance(error, errors.KafkaError):
        words = client.reason(error, options)
    else:
        words = f"cannot publish on topic {record.topic!r}: {error}"
    return PublishError(words, transient=_is_transient(error))


def no_such_topic(record: Outgoing) -> PublishError:
    """It is asked for in vain."""
    words = f"topic {record.topic!r} does not exist, or has no leader, or this user may not see it"
    return PublishError(words, transient=True)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, errors.KafkaError) and bool(error.retriable)
