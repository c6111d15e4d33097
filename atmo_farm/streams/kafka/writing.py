"""What a stream writes, on the owner's thread: outputs as they come, or, with what they came from, in transactions.

BrokerUnavailable from any call here: nothing is lost, the next one goes on from there.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs

from atmo_farm import clock, log
from atmo_farm.streams.kafka.driver import (
    BrokerUnavailable,
    Driver,
    Outgoing,
    Producer,
    Rebalanced,
    Refused,
    Result,
    Standing,
    Transactions,
)
from atmo_farm.streams.kafka.options import Options

logger = logging.getLogger("atmo_farm.streams")

FLUSH_S = 0.5
"""One wait for acknowledgements; what is not decided then is waited for in the next cycle."""
FLUSH_BYTES = 32 << 20
"""Given to the client between two flushes: its own queue has no bound."""


@attrs.frozen
class Batch:
    """Of one transaction: by partition that is read, how far it is processed with this, and the outputs of that."""

    offsets: Mapping[int, int]
    outputs: Mapping[int, Sequence[Outgoing]]
    revocations: int
    """How many the loop knew of: it may take a partition that has gone and come back for the one that it had."""


class Writer(Protocol):
    """One of the two."""

    def open(self) -> None:
        """Connect, unless that is done."""

    def write(self) -> bool:
        """Go on with what there is; whether there was something to write or to wait for."""

    def finish(self, until: float) -> None:
        """All of it, as far as the broker takes it by then."""

    def trouble(self) -> str:
        """Why nothing goes on; empty while all is well."""

    def close(self) -> None:
        """Disconnect."""


class Plain:
    """`Writer`: records, each with a result of its own."""

    def __init__(self, driver: Driver, options: Options, tell: Callable[[list[Result]], None]):
        self._driver = driver
        self._options = options
        self._tell = tell
        self._producer: Producer | None = None
        self._outgoing: deque[Outgoing] = deque()
        self._undecided = 0
        """Records that the producer has."""

    def open(self) -> None:
        """As the protocol says."""
        if self._producer is None:
            self._producer = self._driver.producer(self._options)

    def send(self, records: Sequence[Outgoing]) -> None:
        """To be written."""
        self._outgoing.extend(records)

    def write(self) -> bool:
        """Flush once."""
        if not (self._outgoing or self._undecided):
            return False
        self.open()
        assert self._producer is not None
        size = 0
        while self._outgoing and size < FLUSH_BYTES:
            record = self._outgoing.popleft()
            size += record.size
            self._undecided += 1
            self._producer.send(record)
        results = self._producer.flush(FLUSH_S)
        self._undecided -= len(results)
        if results:
            self._tell(results)
        return True

    def finish(self, until: float) -> None:
        """As the protocol says; what is left then is told in the log."""
        try:
            while self.write() and clock.monotonic() < until:
                pass
        except BrokerUnavailable:
            pass
        if unsent := len(self._outgoing) + self._undecided:
            log.event(logger, logging.WARNING, "outputs not sent", connection=self._options.where, messages=unsent)

    def trouble(self) -> str:
        """As the protocol says."""
        return "" if self._producer is None else self._producer.trouble()

    def close(self) -> None:
        """As the protocol says."""
        if self._producer is not None:
            self._producer.close()


class Transactional:
    """`Writer`: one transaction after the other. `tell` is called with the offsets that one has committed, none if it
    has not come to be, and with the outputs that were refused."""

    def __init__(
        self,
        driver: Driver,
        options: Options,
        transactional_id: str,
        topic: str,
        standing: Callable[[], Standing],
        tell: Callable[[Mapping[int, int], list[Refused]], None],
    ):
        self._driver = driver
        self._options = options
        self._id = transactional_id
        self._topic = topic
        self._standing = standing
        self._tell = tell
        self._transactions: Transactions | None = None
        self._batch: Batch | None = None
        self._revocations = 0

    def open(self) -> None:
        """As the protocol says. To be done before anything is read: what a dead process has begun keeps the broker from
        telling where its partitions go on."""
        if self._transactions is None:
            self._transactions = self._driver.transactions(self._options, self._id)

    def begin(self, batch: Batch) -> None:
        """The next transaction; the last one has been told of."""
        self._batch = batch

    @property
    def due(self) -> float:
        """As `driver.Transactions` has it."""
        return math.inf if self._transactions is None else self._transactions.due

    def revoked(self) -> None:
        """Some partitions are not ours any more: what is not begun will not be."""
        self._revocations += 1

    def write(self) -> bool:
        """Run it, if there is one. A batch that was made before the last revocation is not: another one will be."""
        batch = self._batch
        if batch is None:
            if self._transactions is not None:
                self._transactions.open()  # readers wait for what has failed, and there may be no next one
            return False
        self.open()
        assert self._transactions is not None
        standing = self._standing()
        refused: list[Refused] = []
        offsets: Mapping[int, int] = {}
        if batch.revocations == self._revocations and standing.partitions >= batch.offsets.keys():
            records = [record for number in batch.offsets for record in batch.outputs[number]]
            try:
                refused = self._transactions.run(records, self._topic, batch.offsets, standing.member)
            except Rebalanced:
                return False  # the next poll tells what is ours
            offsets = {} if refused else batch.offsets
        elif batch.revocations == self._revocations:
            return False  # as above
        self._batch = None
        self._tell(offsets, refused)
        return True

    def finish(self, until: float) -> None:
        """As the protocol says; what is left is as if it had never been received."""
        try:
            while self.write() and clock.monotonic() < until:
                pass
        except BrokerUnavailable:
            pass

    def trouble(self) -> str:
        """As the protocol says; nobody needs a broker while there is nothing to do."""
        return "" if self._transactions is None or self._batch is None else self._transactions.trouble()

    def close(self) -> None:
        """As the protocol says."""
        if self._transactions is not None:
            self._transactions.close()
