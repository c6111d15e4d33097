"""One message's life in a consumer: a place in flight, its lane, attempts, its end, its counts."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any

from atmo_farm import clock
from atmo_farm.consumer import eager
from atmo_farm.consumer.attempts import PUBLISHED, Attempts
from atmo_farm.consumer.failures import Failures
from atmo_farm.delivery.dead_letters import DeadLetters
from atmo_farm.delivery.lanes import Lanes, lane_of
from atmo_farm.delivery.outcome import KILLER, Outcome
from atmo_farm.delivery.settlement import Action, Settlement
from atmo_farm.directive.model import Handler
from atmo_farm.ipc import histogram
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.histogram import BUCKETS, PER_SECOND, Timed
from atmo_farm.streams.base import DONE, Message, Receipt, Stream

# Plain numbers: an enum member costs a lookup on its class for each message.
IN_FLIGHT, RECEIVED, OK = map(int, (Field.IN_FLIGHT, Field.RECEIVED, Field.OK))
ATTEMPT = Timed.ATTEMPT.begin
ATTEMPTS_US = ATTEMPT + BUCKETS

ALONE_FROM = 2
"""So many deaths of its process, and a message runs with no other beside it."""
KILLS = 3
"""So many, and it is not tried again."""


class Worker:
    """Takes messages from the stream, at most `maxInFlight` at once, and sees each one through.

    `suspects`: message number → how many processes died while its guest ran; whoever gives it may change it later.
    `dead`: None where `deadLetter` is off.
    """

    def __init__(
        self,
        handler: Handler,
        attempts: Attempts,
        stream: Stream,
        slot: memoryview,
        dead: DeadLetters | None = None,
        suspects: Mapping[int, int] | None = None,
    ):
        self._attempt = attempts.begin
        self._confirm = attempts.confirm
        self._stream = stream
        self._slot = slot
        self._failures = Failures(handler, stream, slot, dead, self._pause)
        self._suspects = suspects if suspects is not None else {}
        self._settlement = Settlement(handler.retry, handler.idempotent, random.random)
        self._loop = asyncio.get_running_loop()
        self._max_in_flight = handler.max_in_flight
        self._lanes = Lanes(lane_of(handler.ordering, handler.ordering_key)) if handler.ordering != "none" else None
        self._gives_back = stream.redelivers and self._lanes is None
        self._durable = stream.durable
        self._in_flight = 0
        self._took_s = 0.0
        """Of attempts that are counted in the arena already, what is not yet in their sum."""
        self._leaving: asyncio.Future[None] = self._loop.create_future()
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_way: dict[Receipt, Message] = {}
        """Messages of which only the output's acknowledgement is missing."""
        self._waiters: deque[asyncio.Future[None]] = deque()

    def handle(self, message: Message) -> Awaitable[None]:
        """Take one message; what is returned is done when it has its place and its first leg is over."""
        self._slot[RECEIVED] += 1
        if message.attempt > 1:
            self._slot[Field.REDELIVERED] += 1
        if self._suspects and self._suspects.get(message.number, 0) >= ALONE_FROM:
            return self._handle_suspect(message)
        if self._in_flight >= self._max_in_flight:
            return self._handle_later(message)
        self._begin(message)
        return DONE

    async def _handle_later(self, message: Message) -> None:
        while self._in_flight >= self._max_in_flight and not self._leaving.done():
            await self._change()
        if self._leaving.done():
            self._let_go(message)
        else:
            self._begin(message)

    async def _handle_suspect(self, message: Message) -> None:
        """With no other message beside it, from its beginning to its end; or not at all."""
        await self.idle()
        if self._leaving.done():
            self._let_go(message)
            return
        deaths = self._suspects[message.number]
        self._failures.suspected(message, deaths)
        self._begin(message, KILLER if deaths >= KILLS else None)
        await self.idle()

    def _begin(self, message: Message, outcome: Outcome | None = None) -> None:
        """Give it its place; with `outcome` that is how it ends."""
        self._in_flight += 1
        if self._lanes is None or self._lanes.enter(message):
            self._start(message, outcome)

    def _start(self, message: Message, outcome: Outcome | None = None) -> None:
        """The first attempt, up to where it waits; most messages are done by then, and cost no coroutine."""
        began = clock.monotonic()
        rest: Awaitable[Receipt | None] = DONE
        if outcome is None:
            try:
                rest = self._attempt(message, message.attempt, began)
            except Exception as error:
                outcome = self._failed(message, error, began)
            else:
                if rest is DONE:
                    took_s = clock.monotonic() - began
                    self._slot[ATTEMPT + int(took_s * PER_SECOND).bit_length()] += 1
                    self._took_s += took_s
                    try:
                        self._succeeded(message)
                    except Exception as error:
                        self._failures.unsettled(message, error, message.attempt)
                    self._free_place(message)
                    return
                if type(rest) is Receipt:
                    self._see_off(rest, message, message.attempt, began, 0.0)
                    return
        self._see_through_soon(message, outcome, rest, message.attempt, began)

    def _see_through_soon(self, *what: Any) -> None:
        task = eager.start(self._see_through(*what), self._loop)
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._slot[IN_FLIGHT] = self._in_flight

    def _see_off(self, sent: Receipt, message: Message, attempt: int, began: float, first_s: float) -> None:
        """Nothing but its output's acknowledgement is missing: what is behind it in its lane goes on."""
        self._on_way[sent] = message
        self._slot[IN_FLIGHT] = self._in_flight
        sent.then(partial(self._heard_of, sent, message, attempt, began, first_s))
        if self._lanes is not None:
            self._go_on_in_lane(self._lanes, self._lanes.let_pass(message))

    def _heard_of(
        self, sent: Receipt, message: Message, attempt: int, began: float, first_s: float, error: Exception | None
    ) -> None:
        """Its end; or it goes back to its place in its lane."""
        del self._on_way[sent]
        if error is not None:
            self._see_through_soon(message, self._failed(message, error, began), DONE, attempt, began, first_s, True)
            return
        took_s = clock.monotonic() - began
        self._slot[ATTEMPT + int(took_s * PER_SECOND).bit_length()] += 1
        self._took_s += took_s
        self._slot[PUBLISHED] += 1
        try:
            self._succeeded(message)
        except Exception as bug:
            self._failures.unsettled(message, bug, attempt)
        self._free_place(message)

    def write_sum(self) -> None:
        """How long attempts took in all, into the arena: once a second, for it costs more than what each one counts."""
        micros = int(self._took_s * 1e6)
        self._took_s -= micros / 1e6
        self._slot[ATTEMPTS_US] += micros

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        while self._in_flight:
            await self._change()

    def leave(self) -> None:
        """The process is to end: what only waits (for a place, its lane, another attempt) goes back to a broker that
        keeps it, and what runs may finish."""
        if self._durable and not self._leaving.done():
            self._leaving.set_result(None)
            self._tell_waiters()

    async def cancel(self) -> int:
        """Cut off what is still in flight, and return how many messages that were."""
        self._ended = True
        cut = self._in_flight
        if self._lanes is not None:
            self._in_flight -= self._lanes.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for sent, message in self._on_way.items():
            sent.then(None)
            self._slot[Field.CANCELLED] += 1
            self._free_place(message)
        self._on_way.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
        return cut

    def _succeeded(self, message: Message) -> None:
        self._slot[OK] += 1
        if self._durable:
            self._stream.ack(message)

    def _failed(self, message: Message, error: Exception, began: float) -> Outcome:
        histogram.count(self._slot, Timed.ATTEMPT, clock.monotonic() - began)
        return self._failures.outcome(message, error)

    async def _see_through(
        self,
        message: Message,
        outcome: Outcome | None,
        rest: Awaitable[Receipt | None],
        attempt: int,
        began: float,
        first_s: float = 0.0,
        comes_back: bool = False,
    ) -> None:
        """The rest of an attempt, or its `outcome`; then all others, and the end. `comes_back`: it has let others
        of its lane pass.

        Nothing may escape from here: a message that vanishes silently is a bug.
        """
        is_on_way = False
        try:
            if comes_back and self._lanes is not None:
                await self._turn(self._lanes, message)
            while True:
                if outcome is None:
                    try:
                        sent = rest if type(rest) is Receipt else await rest
                        if type(sent) is Receipt:
                            if not comes_back:
                                is_on_way = True
                                self._see_off(sent, message, attempt, began, first_s)
                                return
                            await self._confirm(sent)
                    except Exception as error:
                        outcome = self._failed(message, error, began)
                    else:
                        histogram.count(self._slot, Timed.ATTEMPT, clock.monotonic() - began)
                        self._succeeded(message)
                        return
                first_s = first_s or clock.wall() - (clock.monotonic() - began)
                decision = self._settlement.decide(outcome, attempt)
                if decision.action is not Action.RETRY:
                    if not await self._failures.give_up(message, outcome, attempt, first_s):
                        self._let_go(message)
                    return
                self._failures.retry(message, outcome, attempt, decision.delay_s)
                if self._gives_back:
                    self._stream.give_back(message, decision.delay_s)
                    return
                if not await self._pause(decision.delay_s):
                    self._let_go(message)
                    return
                attempt, began, outcome = attempt + 1, clock.monotonic(), None
                try:
                    rest = self._attempt(message, attempt, began)
                except Exception as error:
                    outcome = self._failed(message, error, began)
        except asyncio.CancelledError:
            self._slot[Field.CANCELLED] += 1
            raise
        except Exception as error:
            self._failures.unsettled(message, error, attempt)
        finally:
            if not is_on_way:
                self._free_place(message)

    async def _turn(self, lanes: Lanes, message: Message) -> None:
        """Until it may run again in its lane."""
        turn = self._loop.create_future()
        lanes.come_back(message, lambda: None if turn.done() else turn.set_result(None))
        await turn

    def _free_place(self, message: Message) -> None:
        """It has ended: what waited behind it goes on."""
        self._in_flight -= 1
        self._slot[IN_FLIGHT] = self._in_flight
        if self._lanes is not None:
            self._go_on_in_lane(self._lanes, self._lanes.leave(message))
        if self._waiters:
            self._tell_waiters()

    async def _pause(self, delay_s: float) -> bool:
        """Wait; False, and at once, if the process is to end and the broker keeps the message."""
        await asyncio.wait((self._leaving,), timeout=delay_s)
        return not self._leaving.done()

    def _let_go(self, message: Message) -> None:
        """Let another process have it."""
        if self._durable:
            self._stream.give_back(message, 0.0)

    def _go_on_in_lane(self, lanes: Lanes, following: Message | None) -> None:
        """Start what waited behind a message; let it go, in its order, if the process is to end."""
        while following is not None and self._leaving.done():
            self._let_go(following)
            self._in_flight -= 1
            following = lanes.leave(following)
        if following is not None:
            self._loop.call_soon(self._follow, following)

    def _follow(self, message: Message) -> None:
        if self._ended:
            self._in_flight -= 1
        else:
            self._start(message)

    def _change(self) -> asyncio.Future[None]:
        """A future that is done at the next end of a message."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def _tell_waiters(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
