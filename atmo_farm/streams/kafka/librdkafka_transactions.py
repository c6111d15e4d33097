"""The driver on librdkafka: its transactions.

One that fails is given up with its producer: a new one undoes it when it begins. After `abort_transaction`, the library
may throw away the records of the next transaction, too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from atmo_farm import clock
from atmo_farm.errors import AtmoFarmError
from atmo_farm.streams.kafka import librdkafka_client as client
from atmo_farm.streams.kafka import librdkafka_producer as producer
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

_OTHER_GENERATION = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._STATE,
}
_BY_ANOTHER = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}
"""A record's errors that are another one's fault."""
LATE_S = 0.5
"""`send_offsets_to_transaction` does not look at its timeout, and may never come back when a broker goes away in the
middle of it (https://github.com/confluentinc/librdkafka/issues/5456)."""


class LibrdkafkaTransactions:
    """`driver.Transactions`. BrokerUnavailable when no broker lets it in within a few seconds."""

    def __init__(self, options: Options, transactional_id: str):
        self._options = options
        self._id = transactional_id
        self._connection: client.Connection | None = None
        self._producer: Any = None
        self.due = math.inf
        self.open()

    def open(self) -> None:
        """As the protocol says."""
        if self._producer is not None:
            return
        self._producer, self._connection = producer.made(
            self._options,
            transactional_id=self._id,
            transaction_timeout_ms=round(TRANSACTION_TIMEOUT_S * 1000),
            delivery_timeout_ms=round(TRANSACTION_WITHIN_S * 1000),
        )
        try:
            self._producer.init_transactions(TRANSACTION_WITHIN_S)
        except KafkaException as error:
            raise self._given_up(error) from error

    def run(self, records: Sequence[Outgoing], topic: str, offsets: Mapping[int, int], member: Any) -> list[Refused]:
        """As the protocol says."""
        self.open()
        try:
            self._producer.begin_transaction()
            refused = self._write(records, clock.monotonic() + TRANSACTION_WITHIN_S)
            if refused:
                self.close()
                return refused
            named = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
            self.due = clock.monotonic() + DECIDED_WITHIN_S + LATE_S
            self._producer.send_offsets_to_transaction(named, member, DECIDED_WITHIN_S)
        except (KafkaException, BrokerUnavailable) as error:
            raise self._given_up(error) from error
        finally:
            self.due = math.inf
        self._commit()
        return []

    def trouble(self) -> str:
        """As the protocol says."""
        return "" if self._connection is None else self._connection.trouble()

    def close(self) -> None:
        """As the protocol says."""
        made, self._producer = self._producer, None
        if made is not None:
            made.purge()
            with contextlib.suppress(KafkaException):  # that it is fenced, once more
                made.flush(0)

    def _write(self, records: Sequence[Outgoing], until: float) -> list[Refused]:
        """Returns those that the library or the broker does not take, if there are any."""
        decided: producer.Decided = []  # of this transaction: some of an undone one may still be told of
        produce = self._producer.produce
        for record in records:
            decide = partial(_decide, decided, record)
            try:
                produce(record.topic, record.value, record.key, headers=record.headers, on_delivery=decide)
            except BufferError as error:
                raise BrokerUnavailable("the outputs of one transaction are more than the client keeps") from error
            except KafkaException as error:
                if error.args[0].fatal() or error.args[0].code() == KafkaError._STATE:
                    raise
                decided.append((record, error.args[0]))
        client.flush(self._producer, max(0.0, until - clock.monotonic()))
        failed = [(record, error) for record, error in decided if error is not None]
        if fatal := next((error for _, error in failed if error.fatal()), None):
            raise KafkaException(fatal)
        if len(decided) < len(records):
            raise BrokerUnavailable(self.trouble() or "no answer in time")
        refused = [
            (record, producer.verdict(record, error, self._options))
            for record, error in failed
            if error.code() not in _BY_ANOTHER
        ]
        if failed and not refused:
            raise BrokerUnavailable(client.reason(failed[0][1], self._options))
        return refused

    def _commit(self) -> None:
        """Once that is asked for, only its answer tells what has become of it."""
        try:
            self._producer.commit_transaction(DECIDED_WITHIN_S)
        except KafkaException as error:
            is_undone = error.args[0].txn_requires_abort()
            why = self._given_up(error)
            if isinstance(why, BrokerUnavailable) and not is_undone:
                why = BrokerRefused(f"it is not known whether a transaction was committed: {why}")
            raise why from error

    def _given_up(self, said: Exception) -> AtmoFarmError:
        """Do without this producer; returns why."""
        self.close()
        if not isinstance(said, KafkaException):
            return BrokerUnavailable(str(said))
        error = said.args[0]
        code = error.code()
        if code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            return BrokerRefused(f"{self._options.username or 'this user'!r} may not use transactional ids")
        if code == KafkaError._FENCED:
            return Fenced("another process has this worker's transactional id")
        if code in _OTHER_GENERATION:
            return Rebalanced(client.reason(error, self._options))
        return client.wrapped(error, self._options)


def _decide(decided: producer.Decided, record: Outgoing, error: Any, _message: Any) -> None:
    decided.append((record, error))
