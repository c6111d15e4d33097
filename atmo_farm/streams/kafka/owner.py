"""The one thread that owns a process's Kafka clients: it polls, writes, flushes and commits, all in batches.

                    the loop                                   the owner
    send, commit, pause, resume   ── a deque, an event ──→     one cycle: do what was asked; flush, once;
    records, results, rebalances  ←── call_soon_threadsafe ──  commit, once; poll, once

A client blocks while it waits, so the thread can wait for one thing at a time. It waits for records while nothing is in
the loop's hands. While something is, it waits for what the loop will ask, at first; the longer that takes, the longer
it waits for records in between (at most a tenth of the time that the loop has already had).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from atmo_farm import clock
from atmo_farm.errors import AtmoFarmError
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
from atmo_farm.streams.kafka.health import Health
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.options import Options

logger = logging.getLogger("atmo_farm.streams")

IDLE_POLL_S = 0.25
LOOP_FIRST_S = 0.005
"""How long what the loop will ask is waited for alone."""
SHORTEST_POLL_S, LONGEST_POLL_S = 0.002, 0.05
FLUSH_S = 0.5
"""One wait for acknowledgements; what is not decided then is waited for in the next cycle."""
FLUSH_BYTES = 32 << 20
"""Given to the client between two flushes: its own queue has no bound."""
TRY_AGAIN_S = 0.5
COMMIT_AGAIN_S = 5.0
"""A member that was fenced is told of it only when it commits: so it does, also when there is nothing new."""
FINISH_S = 2.0
"""How long the end waits for a broker that may never answer."""


class Ears(Protocol):
    """What the owner tells; called on the loop."""

    def opened(self) -> None:
        """Connected, and the topic is there."""

    def joined(self) -> None:
        """A member of the group, with partitions or without."""

    def assigned(self, partitions: Collection[int]) -> None:
        """Ours from now on."""

    def revoked(self, partitions: Collection[int]) -> None:
        """Not ours any more."""

    def records(self, polled: Mapping[int, Sequence[Record]]) -> None:
        """To be counted in `Owner.settled`, one by one, when they have ended or are dropped."""

    def results(self, results: list[Result]) -> None:
        """What became of outputs."""

    def waiting(self, reason: str) -> None:
        """No broker, or no topic."""

    def connected(self) -> None:
        """There again."""

    def failed(self, error: AtmoFarmError) -> None:
        """It cannot go on, and has ended."""


class Owner:
    """Of one stream. All methods but those of `driver.Listener` are the loop's."""

    def __init__(
        self,
        driver: Driver,
        options: Options,
        ears: Ears,
        topic: str = "",
        membership: Membership | None = None,
    ):
        """Without a topic it only writes."""
        self._driver = driver
        self._options = options
        self._ears = ears
        self._topic = topic
        self._membership = membership
        self._loop = asyncio.get_running_loop()
        self.settled = 0
        """How many of the records handed over have ended: the loop's to count."""
        self._handed = 0
        self._asked: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="kafka owner", daemon=True)
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._outgoing: deque[Outgoing] = deque()
        self._undecided = 0
        """Records that the producer has."""
        self._offsets: dict[int, int] = {}
        """To be committed."""
        self._committed: dict[int, int] = {}
        self._commit_at = 0.0
        self._active_at = 0.0
        self._ours: set[int] = set()
        self._following = self._draining = self._ending = self._has_joined = False
        self._health = Health(self._tell_waiting, self._tell_connected)

    def start(self) -> None:
        """Connect, for as long as it takes."""
        self._thread.start()

    def follow(self) -> None:
        """Join the group and hand records over."""
        self._ask(self._begin_following)

    def drain(self) -> None:
        """Hand over no more records, but stay a member: what is in hand may still be committed."""
        self._ask(self._begin_draining)

    def send(self, records: Sequence[Outgoing]) -> None:
        """Write these; their results come back."""
        self._ask(lambda: self._outgoing.extend(records))

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit these; for partitions that are ours no more it is forgotten."""
        self._ask(lambda: self._offsets.update(offsets))

    def flow(self, pause: Collection[int], resume: Collection[int]) -> None:
        """Pause and resume partitions at the broker."""
        self._ask(lambda: self._pause_and_resume(pause, resume))

    async def end(self) -> None:
        """Write and commit what was asked for, as far as the broker takes it in time, and disconnect."""
        self._ask(self._begin_ending)
        if self._thread.is_alive():
            await asyncio.wait((self._ended,))

    def lag(self) -> Mapping[int, int]:
        """By partition, as of a moment ago."""
        return {}

    # From here on: the thread's.

    def assigned(self, partitions: Collection[int]) -> None:
        """`driver.Listener`."""
        self._ours.update(partitions)
        self._has_joined = self._has_joined or self._told_joined()
        self._tell(self._ears.assigned, partitions)
        if self._draining and self._consumer is not None:
            self._consumer.pause(partitions)

    def revoked(self, partitions: Collection[int]) -> None:
        """`driver.Listener`."""
        self._ours.difference_update(partitions)
        for partition in partitions:
            self._offsets.pop(partition, None)
            self._committed.pop(partition, None)
        self._tell(self._ears.revoked, partitions)

    def _run(self) -> None:
        try:
            self._open()
            while not self._ending:
                self._cycle()
            self._finish()
        except BrokerRefused as error:
            self._tell(self._ears.failed, error)
        except Exception as error:
            logger.exception("internal error")
            self._tell(self._ears.failed, BrokerRefused(f"internal error: {type(error).__name__}"))
        finally:
            for client in (self._consumer, self._producer):
                if client is not None:
                    client.close()
            self._tell(self._tell_ended)

    def _open(self) -> None:
        while not self._ending:
            try:
                if self._membership is not None:
                    self._consumer = self._driver.consumer(self._options, self._topic, self._membership, self)
                else:
                    self._producer = self._driver.producer(self._options)
                break
            except BrokerUnavailable as error:
                self._health.mind_at_once(str(error))
                self._wait(TRY_AGAIN_S)
                self._do_what_was_asked()
        else:
            return
        if self._consumer is not None and self._consumer.missing():
            raise no_topic(self._topic, self._options)
        self._tell(self._ears.opened)

    def _cycle(self) -> None:
        busy = self._handed != self.settled  # before what was asked: the loop asks first and counts then
        did = self._do_what_was_asked()
        said = ""
        try:
            did |= self._write()
            did |= self._commit()
            did |= self._read(0.0 if did else self._patience(busy))
        except BrokerUnavailable as error:
            said = str(error)
            self._wait(TRY_AGAIN_S)
        if did:
            self._active_at = clock.monotonic()
        self._health.mind(lambda: said or self._trouble())

    def _do_what_was_asked(self) -> bool:
        self._wake.clear()
        did = bool(self._asked)
        while self._asked:
            self._asked.popleft()()
        return did

    def _write(self) -> bool:
        """Whether there was something to write or to wait for."""
        if not (self._outgoing or self._undecided):
            return False
        if self._producer is None:
            self._producer = self._driver.producer(self._options)
        size = 0
        while self._outgoing and size < FLUSH_BYTES:
            record = self._outgoing.popleft()
            size += len(record.value) + len(record.key or b"")
            self._undecided += 1
            self._producer.send(record)
        results = self._producer.flush(FLUSH_S)
        self._undecided -= len(results)
        if results:
            self._tell(self._ears.results, results)
        return True

    def _commit(self) -> bool:
        """Whether something new was committed."""
        if self._consumer is None or not self._ours:
            return False
        now = clock.monotonic()
        new = bool(self._offsets)
        if not new and not (self._committed and now >= self._commit_at):
            return False
        self._commit_at = now + COMMIT_AGAIN_S
        offsets = self._offsets or self._committed
        if self._consumer.commit(offsets):
            self._committed.update(offsets)
            self._offsets = {}
            return new
        return False

    def _read(self, timeout_s: float) -> bool:
        """Whether records have come."""
        if self._consumer is None or not self._following:
            self._wait(timeout_s)
            return False
        polled = self._consumer.poll(timeout_s)
        if not self._has_joined and self._consumer.joined():
            self._has_joined = self._told_joined()
        if not polled:
            return False
        self._handed += sum(map(len, polled.values()))
        self._tell(self._ears.records, polled)
        return True

    def _patience(self, busy: bool) -> float:
        """How long to wait for records, after the loop had its time to ask for something."""
        if not busy:
            return IDLE_POLL_S
        had_s = clock.monotonic() - self._active_at
        if had_s < LOOP_FIRST_S:
            self._wait(LOOP_FIRST_S - had_s)
            return 0.0
        return 0.0 if self._asked else min(max(had_s / 10, SHORTEST_POLL_S), LONGEST_POLL_S)

    def _trouble(self) -> str:
        for client in (self._consumer, self._producer):
            if client is not None and (trouble := client.trouble()):
                return trouble
        if self._consumer is not None and self._following and not self._ours and self._consumer.missing():
            return str(no_topic(self._topic, self._options))
        return ""

    def _finish(self) -> None:
        """What was asked for last."""
        until = clock.monotonic() + FINISH_S
        try:
            while (self._outgoing or self._undecided) and clock.monotonic() < until:
                self._write()
            if not self._trouble():
                self._commit()
        except BrokerUnavailable:
            pass
        unsent = len(self._outgoing) + self._undecided
        if unsent:
            logger.warning("outputs not sent: %d", unsent)

    def _begin_following(self) -> None:
        self._following = True

    def _begin_draining(self) -> None:
        self._draining = True
        if self._consumer is not None:
            self._consumer.pause(self._ours)

    def _begin_ending(self) -> None:
        self._ending = True

    def _pause_and_resume(self, pause: Collection[int], resume: Collection[int]) -> None:
        if self._consumer is None or self._draining:
            return
        if pause:
            self._consumer.pause(pause)
        if resume:
            self._consumer.resume(resume)

    def _told_joined(self) -> bool:
        self._tell(self._ears.joined)
        return True

    def _tell_waiting(self, reason: str) -> None:
        self._tell(self._ears.waiting, reason)

    def _tell_connected(self) -> None:
        self._tell(self._ears.connected)

    def _tell_ended(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _tell(self, ear: Callable[..., None], *what: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(ear, *what)
        except RuntimeError:  # the loop is closed, the process ends
            self._ending = True

    def _wait(self, timeout_s: float) -> None:
        if not self._asked:
            self._wake.wait(timeout_s)

    def _ask(self, what: Callable[[], None]) -> None:
        self._asked.append(what)
        self._wake.set()


def no_topic(topic: str, options: Options) -> BrokerRefused:
    """The error for a topic that is not there."""
    create = f"kafka-topics.sh --bootstrap-server {options.servers[0]} --create --topic {topic}"
    return BrokerRefused(f"topic {topic!r} does not exist, or this user may not see it; create it: {create}")
