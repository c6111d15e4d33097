"""A stream's consumer and producer, on their thread: what one cycle of the owner does with them."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

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
    Standing,
)
from atmo_farm.streams.kafka.ears import Ears
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.options import Options
from atmo_farm.streams.kafka.writing import Batch, Plain, Transactional, Writer

logger = logging.getLogger("atmo_farm.streams")

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
        self._writer: Writer
        self._transactional: Transactional | None = None
        if membership is not None and membership.transactional_id:
            told = partial(tell, ears.transacted)
            given = driver, options, membership.transactional_id, topic
            self._writer = self._transactional = Transactional(*given, self._standing, told)
        else:
            self._writer = self._plain = Plain(driver, options, partial(tell, ears.results))
        self._ours: set[int] = set()
        self._joined = self._following = self._draining = self._closing = False
        self._wanted: dict[int, int] = {}
        """What was asked to be committed last, of partitions that are ours."""
        self._offsets: dict[int, int] = {}
        """Of that, what the broker does not have."""
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
            self._writer.open()
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
        self._plain.send(records)

    def transact(self, batch: Batch) -> None:
        """To be written and committed in one transaction."""
        assert self._transactional is not None
        self._transactional.begin(batch)

    @property
    def due(self) -> float:
        """As `driver.Transactions` has it."""
        return math.inf if self._transactional is None else self._transactional.due

    def commit(self, offsets: Mapping[int, int]) -> None:
        """To be committed, as far as the partitions are ours by then."""
        ours = {number: offset for number, offset in offsets.items() if number in self._ours}
        self._wanted.update(ours)
        self._offsets.update(ours)

    def write(self) -> bool:
        """Go on with what is to be written; whether there was something to write or to wait for."""
        return self._writer.write()

    def settle(self) -> bool:
        """Begin a commit, one at a time; whether of something new."""
        now, new = clock.monotonic(), bool(self._offsets)
        due = self._commit_after if new else self._commit_again
        if self._consumer is None or self._transactional or now < due or not (new or self._committed):
            return False
        self._commit_after, self._commit_again = now + COMMIT_PATIENCE_S, now + COMMIT_AGAIN_S
        if not self._consumer.commit(dict(self._offsets or self._committed)):
            self._commit_after = now + REBALANCE_S
            return False
        return new

    def read(self, timeout_s: float, most: int) -> bool:
        """Poll once, for so many; whether records have come."""
        if self._consumer is None or not self._following:
            return False
        if self._transactional is not None:
            self._transactional.open()
        polled = self._consumer.poll(timeout_s, most)
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
        if self._consumer is not None and (trouble := self._consumer.trouble()):
            return trouble
        if trouble := self._writer.trouble():
            return trouble
        if self._consumer is not None and self._following and self._consumer.missing():
            return str(self._no_topic())
        return ""

    def finish(self) -> None:
        """Write and commit what is left, as far as the broker takes it in time."""
        until = clock.monotonic() + FINISH_S
        self._writer.finish(until)
        try:
            while self._consumer is not None and self._offsets and not self.trouble() and clock.monotonic() < until:
                self.settle()
                self._consumer.poll(FINISH_POLL_S)
        except BrokerUnavailable:
            pass

    def close(self, leave: bool = False) -> None:
        """Disconnect; `leave`: the others get the partitions at once, and not when a static member's session ends."""
        self._closing = True
        leave = leave and not self.trouble()
        if self._consumer is not None:
            self._consumer.close()
        self._writer.close()
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
            if partition in self._ours:
                self._committed[partition] = offset
                wanted = self._wanted.get(partition, offset)
                if wanted == offset:
                    self._offsets.pop(partition, None)
                else:  # librdkafka may carry out last what was begun first, where it had to wait for a coordinator
                    self._offsets[partition] = wanted
        self._tell(self._ears.committed, offsets)

    def uncommitted(self) -> None:
        """`driver.Listener`."""
        self._commit_after = min(self._commit_after, clock.monotonic() + REBALANCE_S)

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
        if self._transactional is not None:
            self._transactional.revoked()
        for partition in partitions:
            for offsets in (self._wanted, self._offsets, self._committed):
                offsets.pop(partition, None)
        self._tell(self._ears.revoked, partitions)

    def _standing(self) -> Standing:
        assert self._consumer is not None
        return self._consumer.standing()

    def _no_topic(self) -> BrokerRefused:
        create = f"kafka-topics.sh --bootstrap-server {self._options.servers[0]} --create --topic {self._topic}"
        return BrokerRefused(f"topic {self._topic!r} does not exist, or this user may not see it; create it: {create}")
