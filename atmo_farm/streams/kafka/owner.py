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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from atmo_farm import clock
from atmo_farm.directive.model import DeadLetter
from atmo_farm.streams.kafka.clients import Clients
from atmo_farm.streams.kafka.driver import (
    MOST_RECORDS,
    BrokerRefused,
    BrokerUnavailable,
    Driver,
    Outgoing,
)
from atmo_farm.streams.kafka.ears import Ears
from atmo_farm.streams.kafka.health import Health
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.options import Options
from atmo_farm.streams.kafka.partitions import ENOUGH, ENOUGH_BYTES, Flow
from atmo_farm.streams.kafka.writing import Batch

logger = logging.getLogger("atmo_farm.streams")

IDLE_POLL_S = 0.25
LOOP_FIRST_S = 0.005
"""How long what the loop will ask is waited for alone."""
SHORTEST_POLL_S = 0.002
COMMIT_POLL_S = 0.001
"""Of a commit that is under way only a poll tells, which does not see what the loop asks: so long the loop alone is
waited for also then, and so long such a poll waits."""
COMMIT_FIRST_S = 0.02
"""How long a commit is waited for by polls: the loop may stand until then."""
POLL_EVERY_S = 0.02
"""How often there is a poll while the loop has enough: for the sake of the membership, and of partitions of which the
broker has more and the loop little."""
TRY_AGAIN_S = 0.5


class Owner:
    """Of one stream; its methods are the loop's."""

    def __init__(
        self,
        driver: Driver,
        options: Options,
        ears: Ears,
        topic: str = "",
        membership: Membership | None = None,
        dead_letter: DeadLetter | None = None,
    ):
        """Without a membership it only writes. `dead_letter`: its topic is made when it is not there."""
        self._ears = ears
        self._loop = asyncio.get_running_loop()
        self._clients = Clients(driver, options, topic, membership, ears, self._tell, self._serve, dead_letter)
        self._health = Health(partial(self._tell, ears.waiting), partial(self._tell, ears.connected))
        self._asked: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._active_at = self._poll_at = 0.0
        self._ending = self._leaving = False
        self._did = False
        """Whether there was something to do in this cycle."""
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="kafka owner", daemon=True)
        self.settled = 0
        """How many of the records handed over have ended. The loop counts, after it has asked for all that follows."""
        self._flow = Flow()

    def start(self) -> None:
        """Connect, for as long as it takes."""
        self._thread.start()

    def follow(self) -> None:
        """Join the group and hand records over."""
        self._ask(self._clients.follow)

    def drain(self) -> None:
        """Hand over no more records, but stay a member: what is in hand may still be committed."""
        self._ask(self._clients.drain)

    def send(self, records: Sequence[Outgoing]) -> None:
        """Write these; their results come back."""
        self._ask(partial(self._clients.send, records))

    def transact(self, batch: Batch) -> None:
        """Write and commit this in one transaction, after the last one has been told of."""
        self._ask(partial(self._clients.transact, batch))

    def look(self) -> None:
        """Called now and then while a transaction is under way: whether the thread comes back from its calls. If not,
        the process ends, and its successor goes on."""
        if clock.monotonic() > self._clients.due:
            self._ears.failed(BrokerRefused("a transaction does not come to its end"))

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit these; for partitions that are ours no more it is forgotten."""
        self._ask(partial(self._clients.commit, offsets))

    def flow(self, flow: Flow) -> None:
        """What waits to be handed over, by now."""
        self._flow = flow
        if flow.pause or flow.resume:
            self._ask(partial(self._clients.flow, flow.pause, flow.resume))

    async def lag(self) -> Mapping[int, int]:
        """By partition that is ours; it does not return once the thread has ended."""
        found: asyncio.Future[Mapping[int, int]] = self._loop.create_future()

        def answer(lag: Mapping[int, int]) -> None:
            if not found.done():
                found.set_result(lag)

        self._ask(lambda: self._tell(answer, self._clients.lag()))
        return await found

    async def end(self, leave: bool = False) -> None:
        """Write and commit what was asked for, as far as the broker takes it in time, and disconnect; `leave`: a static
        member goes for good."""
        self._ask(partial(self._end, leave))
        if self._thread.is_alive():
            await asyncio.wait((self._ended,))

    def _ask(self, what: Callable[[], None]) -> None:
        self._asked.append(what)
        self._wake.set()

    # From here on it is the thread.

    def _run(self) -> None:
        try:
            if self._open():
                while not self._ending:
                    self._cycle()
                self._clients.finish()
        except BrokerRefused as error:
            self._tell(self._ears.failed, error)
        except Exception as error:
            logger.exception("internal error")
            self._tell(self._ears.failed, BrokerRefused(f"internal error: {type(error).__name__}"))
        finally:
            self._clients.close(self._leaving)
            self._tell(self._ended.set_result, None)

    def _open(self) -> bool:
        while not self._ending:
            try:
                self._clients.open()
            except BrokerUnavailable as error:
                self._health.tell(str(error))
                self._wait(TRY_AGAIN_S)
                self._do_what_was_asked()
            else:
                self._tell(self._ears.opened)
                return True
        return False

    def _cycle(self) -> None:
        in_hand = self._clients.handed - self.settled  # before what was asked, for the loop counts after it has asked
        self._did = self._do_what_was_asked()
        said = ""
        for step in (self._clients.write, self._clients.settle, partial(self._read, in_hand)):
            try:
                self._did |= step()
            except BrokerUnavailable as error:  # of one step; the others may well go on
                said = said or str(error)
        if self._did:
            self._active_at = clock.monotonic()
        elif said:
            self._wait(TRY_AGAIN_S)
        self._health.mind(lambda: said or self._clients.trouble())

    def _read(self, in_hand: int) -> bool:
        patience_s = 0.0 if self._did or self._ending else self._patience_s(in_hand > 0)
        if not self._clients.reads:
            self._wait(patience_s)
            return False
        flow = self._flow
        if in_hand < ENOUGH and flow.bytes < ENOUGH_BYTES:
            return self._clients.read(patience_s, MOST_RECORDS)
        now = clock.monotonic()
        if now >= self._poll_at:
            self._poll_at = now + POLL_EVERY_S
            lag = self._clients.lag()
            has_more = any(lag.get(number, 1) for number in flow.short)  # where it is not known yet, it may be
            return self._clients.read(patience_s, MOST_RECORDS if has_more else 1)
        if self._clients.commits:
            self._wait(min(patience_s, COMMIT_POLL_S))
            return self._clients.read(0.0, 1)
        self._wait(min(patience_s, POLL_EVERY_S))
        return False

    def _serve(self, timeout_s: float) -> None:
        self._wait(timeout_s)
        self._do_what_was_asked()

    def _do_what_was_asked(self) -> bool:
        self._wake.clear()
        did = bool(self._asked)
        while self._asked:
            self._asked.popleft()()
        return did

    def _patience_s(self, busy: bool) -> float:
        """How long to wait for records, after the loop had its time to ask for something."""
        if not busy:
            return IDLE_POLL_S
        had_s = clock.monotonic() - self._active_at
        alone_s = COMMIT_POLL_S if self._clients.commits else LOOP_FIRST_S
        if had_s < alone_s:
            self._wait(alone_s - had_s)
            return 0.0
        if self._asked:
            return 0.0
        if self._clients.commits and had_s < COMMIT_FIRST_S:
            return COMMIT_POLL_S
        return min(max(had_s / 10, SHORTEST_POLL_S), IDLE_POLL_S)

    def _wait(self, timeout_s: float) -> None:
        """Until the loop asks for something."""
        self._wake.wait(timeout_s)

    def _end(self, leave: bool) -> None:
        self._ending = True
        self._leaving = leave

    def _tell(self, ear: Callable[..., None], *what: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(ear, *what)
        except RuntimeError:  # the loop is closed, the process ends
            self._ending = True
