"""The driver on kafka-python: its transactions.

A transaction that fails leaves the library in a state that only a new producer is sure to be out of: so there is one,
and what the last one has begun is undone by the new one's beginning. The library's own calls wait for ever for a broker
that is away, so they are made here without the waiting.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import errors
from kafka.structs import OffsetAndMetadata, TopicPartition

from atmo_farm import clock
from atmo_farm.errors import AtmoFarmError
from atmo_farm.streams.kafka import kafka_python_client as client
from atmo_farm.streams.kafka import kafka_python_producer as producer
from atmo_farm.streams.kafka.driver import (
    DECIDED_WITHIN_S,
    TRANSACTION_TIMEOUT_S,
    TRANSACTION_WITHIN_S,
    BrokerRefused,
    BrokerUnavailable,
    Fenced,
    Outgoing,
    Rebalanced,
    Refused,
)
from atmo_farm.streams.kafka.options import Options

RETRY_S = 0.01
"""Until the library asks again: the broker ends a transaction some milliseconds after it has answered."""

_Sent = list[tuple[Outgoing, Any]]
"""With the library's futures."""
_FENCED = (errors.ProducerFencedError, errors.InvalidProducerEpochError)


class KafkaPythonTransactions:
    """`driver.Transactions`. BrokerUnavailable when no broker lets it in within a few seconds."""

    due = math.inf

    def __init__(self, options: Options, transactional_id: str):
        self._options = options
        self._id = transactional_id
        self._partitioner = producer.OnePerFlush()
        self._producer: Any = None
        self._client: Any = None
        self.open()

    def open(self) -> None:
        """As the protocol says."""
        if self._producer is not None:
            return
        self._producer, self._client = producer.made(
            self._options,
            self._partitioner,
            transactional_id=self._id,
            transaction_timeout_ms=round(TRANSACTION_TIMEOUT_S * 1000),
            retry_backoff_ms=round(RETRY_S * 1000),
        )
        try:
            self._wait(self._manager.initialize_transactions(), TRANSACTION_WITHIN_S)
        except (errors.KafkaError, BrokerUnavailable) as error:
            raise self._given_up(error) from error

    def run(self, records: Sequence[Outgoing], topic: str, offsets: Mapping[int, int], member: Any) -> list[Refused]:
        """As the protocol says."""
        self.open()
        try:
            self._producer.begin_transaction()
            refused = self._write(records, clock.monotonic() + TRANSACTION_WITHIN_S)
            if not refused:
                named = {TopicPartition(topic, number): OffsetAndMetadata(at, "", -1) for number, at in offsets.items()}
                self._wait(self._manager.send_offsets_to_transaction(named, member), DECIDED_WITHIN_S)
        except (errors.KafkaError, BrokerUnavailable) as error:
            raise self._given_up(error) from error
        if refused:
            self._drop()
        else:
            self._commit()
        return refused

    def trouble(self) -> str:
        """As the protocol says."""
        if self._producer is not None and client.is_connected(self._client):
            return ""
        return client.complaint(self._options)

    def close(self) -> None:
        """As the protocol says."""
        self._drop()

    @property
    def _manager(self) -> Any:
        return self._producer._transaction_manager

    def _write(self, records: Sequence[Outgoing], until: float) -> list[Refused]:
        """Returns those that the library or the broker does not take, if there are any."""
        self._partitioner.begin()
        sent: _Sent = []
        refused: list[Refused] = []
        for record in records:
            try:
                sent.append((record, self._producer.send(record.topic, record.value, record.key, record.headers)))
            except errors.KafkaTimeoutError:  # the next one would wait as long
                return [(one, producer.no_such_topic(one)) for one in records if one.topic == record.topic]
            except (errors.KafkaError, ValueError, TypeError) as error:  # an illegal name, a header that cannot be
                if self._manager.has_error():
                    raise
                refused.append((record, producer.verdict(record, error, self._options)))
        if refused:
            return refused
        missing = self._missing(sent, until)
        if not missing:
            return []
        manager = self._manager
        failed = manager.last_error if manager.has_error() else missing[0][1].exception
        if failed is None:
            raise BrokerUnavailable(client.complaint(self._options))
        if isinstance(failed, _FENCED):
            raise failed
        return [(record, producer.verdict(record, failed, self._options)) for record, _ in missing]

    def _missing(self, sent: _Sent, until: float) -> _Sent:
        """Those that the broker has not taken by then, or when it is sure that it will not, or says nothing more: the
        library may wait for ever for a coordinator that is another broker by now."""
        heard_at = clock.monotonic()
        while sent:
            last = min(until, heard_at + DECIDED_WITHIN_S)
            with contextlib.suppress(errors.KafkaError):  # not all are decided, or it has cut a batch in two
                self._producer.flush(max(0.0, last - clock.monotonic()))
            before, now = len(sent), clock.monotonic()
            sent = [(record, future) for record, future in sent if not future.is_done or future.exception is not None]
            if self._manager.has_error() or any(future.is_done for _, future in sent):
                break
            if len(sent) < before:
                heard_at = now
            elif now >= last:
                break
            time.sleep(RETRY_S)
        return sent

    def _commit(self) -> None:
        """Once that is asked for, only its answer tells what has become of it."""
        try:
            self._wait(self._manager.begin_commit(), DECIDED_WITHIN_S)
        except (errors.KafkaError, BrokerUnavailable) as error:
            why = self._given_up(error)
            if isinstance(why, BrokerUnavailable):
                why = BrokerRefused(f"it is not known whether a transaction was committed: {why}")
            raise why from error

    def _wait(self, result: Any, timeout_s: float) -> None:
        self._producer._sender.wakeup()
        if not result.wait(timeout_ms=timeout_s * 1000):
            raise BrokerUnavailable(client.complaint(self._options))

    def _given_up(self, said: Exception) -> AtmoFarmError:
        """Do without this producer; returns why."""
        error = self._manager.last_error if self._manager.has_error() else said
        self._drop()
        if isinstance(error, _FENCED):
            return Fenced("another process has this worker's transactional id")
        if isinstance(error, errors.CommitFailedError):
            return Rebalanced(client.reason(error, self._options))
        if isinstance(error, errors.TransactionalIdAuthorizationFailedError):
            return BrokerRefused(f"{self._options.username or 'this user'!r} may not use transactional ids")
        if isinstance(error, (errors.AuthorizationError, errors.FencedInstanceIdError)):
            return client.wrapped(error, self._options)
        words = client.reason(error, self._options) if isinstance(error, errors.KafkaError) else str(error)
        return BrokerUnavailable(words)

    def _drop(self) -> None:
        made, self._producer = self._producer, None
        if made is not None:
            producer.close(made)
