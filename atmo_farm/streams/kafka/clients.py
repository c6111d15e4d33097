"""A stream's consumer and producer, on their thread: what one cycle of the owner does with them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from atmo_farm import clock, log
from atmo_farm.directive.model import DeadLetter
from atmo_farm.errors import AtmoFarmError
from atmo_farm.streams.kafka import admin
from atmo_farm.streams.kafka.driver import (
    BrokerRefused,
    BrokerUnavailable,
    Consumer,
    Driver,
    Outgoing,
    Producer,
    Record,
    Result,
)
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.options import Options

logger = logging.getLogger("atmo_farm.streams")

FLUSH_S = 0.5
"""One wait for acknowledgements; what is not decided then is waited for in the next cycle."""
FLUSH_BYTES = 32 << 20
"""Given to the client between two flushes: its own queue has no bound."""
COMMIT_PATIENCE_S = 1.0
"""A commit of which nothing was heard so long is made again."""
REBALANCE_S = 0.02
"""A commit that a rebalance has refused is made again after so long: joining is more urgent."""
COMMIT_AGAIN_S = 5.0
"""A member that was fenced is told of it only when it commits: so it does, also when there is nothing new."""
REVOKE_S = 3.0
"""How long what is in hand of a partition that goes to another member may take to end."""
FINISH_POLL_S = 0.005
FINISH_S = 2.0
"""How long the end waits for a broker that may never answer."""


class Ears(Protocol):
    """What a stream is told; called on its loop."""

    def opened(self) -> None:
        """Connected, and the topic is there."""

    def joined(self) -> None:
        """A member of the group, with partitions or without."""

    def assigned(self, partitions: Collection[int]) -> None:
        """Ours from now on."""

    def revoking(self, partitions: Collection[int], finished: threading.Event) -> None:
        """Ours for a moment more: what is in hand may end and be committed, then `finished` is to be set."""

    def revoked(self, partitions: Collection[int]) -> None:
        """Not ours any more."""

    def records(self, polled: Mapping[int, Sequence[Record]]) -> None:
        """To be counted in `Owner.settled`, one by one, when they have ended or are dropped."""

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The broker has these."""

    def results(self, results: list[Result]) -> None:
        """What became of outputs."""

    def waiting(self, reason: str) -> None:
        """No broker, or no topic."""

    def connected(self) -> None:
        """There again."""

    def failed(self, error: AtmoFarmError) -> None:
        """It cannot go on, and has ended."""


class Clients:
    """All of it runs on the owner's thread. `tell(ear, what)` has the loop call an ear.

    BrokerUnavailable from any of its calls: nothing is lost, the next cycle goes on from there.
    """

    def __init__(
        self,
        driver: Driver,
        options: Options,
        topic: str,
        membership: Membership | None,
        ears: Ears,
        tell: Callable[..., None],
        serve: Callable[[float], None],
        dead_letter: DeadLetter | None,
    ):
        """Without a membership it only writes. `serve` does what the loop asks for, and waits so long for it."""
        self._driver = driver
        self._options = options
        self._topic = topic
        self._membership = membership
        self._ears = ears
        self._tell = tell
        self._serve = serve
        self._dead_letter = dead_letter
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._ours: set[int] = set()
        self._joined = self._following = self._draining = self._closing = False
        self._outgoing: deque[Outgoing] = deque()
        self._undecided = 0
        """Records that the producer has."""
        self._offsets: dict[int, int] = {}
        """To be committed."""
        self._committed: dict[int, int] = {}
        self._commit_after = self._commit_again = 0.0
        """When something new may be committed, and when something is in any case."""
        self.handed = 0
        """Records that were handed over, since the beginning."""

    def lag(self) -> Mapping[int, int]:
        """Records that were not polled yet, by partition that is ours."""
        return self._consumer.lag() if self._consumer is not None and self._following else {}

    def open(self) -> None:
        """Connect, and make the topic of dead letters. BrokerRefused if there is no such topic."""
        if self._dead_letter is not None:
            admin.ensure_topic(self._options, self._dead_letter.resource, self._dead_letter.max_age_s)
        if self._membership is None:
            self._producer = self._driver.producer(self._options)
            return
        self._consumer = self._driver.consumer(self._options, self._topic, self._membership, self)
        if self._consumer.missing():
            raise self._no_topic()

    def follow(self) -> None:
        """Join the group with the next `read`."""
        self._following = True

    def drain(self) -> None:
        """Read on for the sake of the membership alone."""
        self._draining = True
        if self._consumer is not None:
            self._consumer.pause(self._ours)

    def flow(self, pause: Collection[int], resume: Collection[int]) -> None:
        """Pause and resume partitions at the broker."""
        if self._consumer is not None and not self._draining:
            self._consumer.pause(pause)
            self._consumer.resume(resume)

    def send(self, records: Sequence[Outgoing]) -> None:
        """To be written."""
        self._outgoing.extend(records)

    def commit(self, offsets: Mapping[int, int]) -> None:
        """To be committed, as far as the partitions are ours by then."""
        self._offsets.update(offsets)

    def write(self) -> bool:
        """Flush once; whether there was something to write or to wait for."""
        if not (self._outgoing or self._undecided):
            return False
        if self._producer is None:
            self._producer = self._driver.producer(self._options)
        size = 0
        while self._outgoing and size < FLUSH_BYTES:
            record = self._outgoing.popleft()
            size += len(record.value or b"") + len(record.key or b"")
            self._undecided += 1
            self._producer.send(record)
        results = self._producer.flush(FLUSH_S)
        self._undecided -= len(results)
        if results:
            self._tell(self._ears.results, results)
        return True

    def settle(self) -> bool:
        """Begin a commit, one at a time; whether of something new."""
        now, new = clock.monotonic(), bool(self._offsets)
        due = self._commit_after if new else self._commit_again
        if self._consumer is None or now < due or not (new or self._committed):
            return False
        self._commit_after, self._commit_again = now + COMMIT_PATIENCE_S, now + COMMIT_AGAIN_S
        if not self._consumer.commit(dict(self._offsets or self._committed)):
            self._commit_after = now + REBALANCE_S
            return False
        return new

    def read(self, timeout_s: float) -> bool:
        """Poll once; whether records have come."""
        if self._consumer is None or not self._following:
            return False
        polled = self._consumer.poll(timeout_s)
        if not self._joined and self._consumer.joined():
            self._joined = True
            self._tell(self._ears.joined)
        if not polled:
            return False
        self.handed += sum(map(len, polled.values()))
        self._tell(self._ears.records, polled)
        return True

    @property
    def reads(self) -> bool:
        """Whether `read` waits for records."""
        return self._consumer is not None and self._following

    @property
    def commits(self) -> bool:
        """Whether a commit is under way, of which only `read` tells."""
        return clock.monotonic() < self._commit_after

    def trouble(self) -> str:
        """Why nothing goes on; empty while all is well."""
        for client in (self._consumer, self._producer):
            if client is not None and (trouble := client.trouble()):
                return trouble
        if self._consumer is not None and self._following and self._consumer.missing():
            return str(self._no_topic())
        return ""

    def finish(self) -> None:
        """Write and commit what is left, as far as the broker takes it in time."""
        until = clock.monotonic() + FINISH_S
        try:
            while self.write() and clock.monotonic() < until:
                pass
            while self._consumer is not None and self._offsets and not self.trouble() and clock.monotonic() < until:
                self.settle()
                self._consumer.poll(FINISH_POLL_S)
        except BrokerUnavailable:
            pass
        if unsent := len(self._outgoing) + self._undecided:
            log.event(logger, logging.WARNING, "outputs not sent", connection=self._options.where, messages=unsent)

    def close(self, leave: bool = False) -> None:
        """Disconnect; `leave`: the others get the partitions at once, and not when a static member's session ends."""
        self._closing = True
        leave = leave and not self.trouble()
        for client in (self._consumer, self._producer):
            if client is not None:
                client.close()
        if leave and self._membership is not None:
            try:
                admin.remove_member(self._options, self._membership.group, self._membership.instance_id)
            except AtmoFarmError as error:
                text = "not removed from its group: its session ends by itself"
                log.event(logger, logging.WARNING, text, connection=self._options.where, reason=str(error))

    def assigned(self, partitions: Collection[int]) -> None:
        """`driver.Listener`."""
        self._ours.update(partitions)
        if self._draining and self._consumer is not None:
            self._consumer.pause(partitions)
        self._tell(self._ears.assigned, partitions)

    def committed(self, offsets: Mapping[int, int]) -> None:
        """`driver.Listener`."""
        self._commit_after = 0.0
        for partition, offset in offsets.items():
            if self._offsets.get(partition) == offset:
                del self._offsets[partition]
            if partition in self._ours:
                self._committed[partition] = offset
        self._tell(self._ears.committed, offsets)

    def revoking(self, partitions: Collection[int]) -> None:
        """`driver.Listener`: a driver that has this can commit here."""
        if self._closing or self._consumer is None:
            return
        finished = threading.Event()
        self._tell(self._ears.revoking, partitions, finished)
        until = clock.monotonic() + REVOKE_S
        try:
            while not finished.is_set() and clock.monotonic() < until:
                self._serve(REVOKE_S / 100)
                self.write()
            self._serve(0.0)
            offsets = {partition: self._offsets[partition] for partition in partitions if partition in self._offsets}
            if offsets:
                self._consumer.commit(offsets)
        except BrokerUnavailable:  # then some of it comes twice
            pass

    def revoked(self, partitions: Collection[int]) -> None:
        """`driver.Listener`."""
        self._ours.difference_update(partitions)
        for partition in partitions:
            self._offsets.pop(partition, None)
            self._committed.pop(partition, None)
        self._tell(self._ears.revoked, partitions)

    def _no_topic(self) -> BrokerRefused:
        create = f"kafka-topics.sh --bootstrap-server {self._options.servers[0]} --create --topic {self._topic}"
        return BrokerRefused(f"topic {self._topic!r} does not exist, or this user may not see it; create it: {create}")
