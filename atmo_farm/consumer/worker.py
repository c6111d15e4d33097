"""One message's life in a consumer: a place in flight, its lane, attempts, its output or its failure, its counts."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Mapping

from atmo_farm import clock, log
from atmo_farm.capabilities.request import Request
from atmo_farm.consumer import eager
from atmo_farm.consumer.sequence import CallFailed, Sequence
from atmo_farm.delivery.dead_letters import DeadLetters
from atmo_farm.delivery.lanes import Lanes, lane_of
from atmo_farm.delivery.outcome import KILLER, Outcome, failure
from atmo_farm.delivery.settlement import Action, Settlement
from atmo_farm.directive.model import Handler
from atmo_farm.errors import PublishError
from atmo_farm.ipc.arena import Field
from atmo_farm.streams.base import Message, Output, Stream

logger = logging.getLogger("atmo_farm.consumer")

# Plain numbers: an enum member costs a lookup on its class for each message.
IN_FLIGHT, RECEIVED, DONE, FAILED = int(Field.IN_FLIGHT), int(Field.RECEIVED), int(Field.OK), int(Field.FAILED)
PUBLISHED = int(Field.PUBLISHED)
COUNTED_CAUSES = {"timeout": Field.TIMEOUTS, "trap": Field.TRAPS, "memory": Field.TRAPS}

ALONE_FROM = 2
"""So many deaths of its process, and a message runs with no other beside it."""
KILLS = 3
"""So many, and it is not tried again."""

BURY_AGAIN_S = (0.2, 30.0)
"""The first and the longest pause before a dead letter is sent again that nobody took."""


class Worker:
    """Takes messages from the stream, at most `maxInFlight` at once, and sees each one through.

    `suspects`: message number → how many processes died while its guest ran; whoever gives it may change it later.
    `dead`: None where `deadLetter` is off.
    """

    def __init__(
        self,
        handler: Handler,
        sequence: Sequence,
        stream: Stream,
        slot: memoryview,
        output_id: str = "",
        dead: DeadLetters | None = None,
        suspects: Mapping[int, int] | None = None,
    ):
        self._handler = handler
        self._sequence = sequence
        self._stream = stream
        self._slot = slot
        self._output_id = output_id or handler.name
        self._dead = dead
        self._suspects = suspects if suspects is not None else {}
        self._settlement = Settlement(handler.retry, handler.idempotent, random.random)
        self._loop = asyncio.get_running_loop()
        self._timeout_s = handler.timeout_s
        self._max_in_flight = handler.max_in_flight
        self._lanes = Lanes(lane_of(handler.ordering, handler.ordering_key)) if handler.ordering != "none" else None
        self._gives_back = stream.redelivers and self._lanes is None
        self._durable = stream.durable
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._done.set_result(None)
        self._in_flight = 0
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._target = handler.respond_to.resource if handler.respond_to else ""
        self._target_headers = handler.respond_to.headers if handler.respond_to else {}

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
        return self._done

    async def _handle_later(self, message: Message) -> None:
        while self._in_flight >= self._max_in_flight:
            await self._change()
        self._begin(message)

    async def _handle_suspect(self, message: Message) -> None:
        """With no other message beside it, from its beginning to its end; or not at all."""
        await self.idle()
        self._begin(message, KILLER if self._suspects[message.number] >= KILLS else None)
        await self.idle()

    def _begin(self, message: Message, outcome: Outcome | None = None) -> None:
        """Give it its place; with `outcome` that is how it ends."""
        self._in_flight += 1
        if self._lanes is None or self._lanes.enter(message):
            self._start(message, outcome)

    def _start(self, message: Message, outcome: Outcome | None = None) -> None:
        if self._ended:
            return
        task = eager.start(self._see_through(message, outcome), self._loop)
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._slot[IN_FLIGHT] = self._in_flight

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        while self._in_flight:
            await self._change()

    async def cancel(self) -> int:
        """Cut off what is still in flight, and return how many messages that were."""
        self._ended = True
        cut, self._in_flight = self._in_flight, 0
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return cut

    async def _see_through(self, message: Message, outcome: Outcome | None) -> None:
        """All attempts, then the end. Nothing may escape from here: a message that vanishes silently is a bug."""
        attempt = message.attempt
        first_s = clock.wall()
        try:
            while outcome is None:
                outcome = await self._attempt(message, attempt)
                if outcome is None:
                    self._slot[DONE] += 1
                    if self._durable:
                        self._stream.ack(message)
                    return
                decision = self._settlement.decide(outcome, attempt)
                if decision.action is not Action.RETRY:
                    break
                self._slot[Field.RETRIED] += 1
                text = "message will be tried again"
                self._log(logging.INFO, text, message, outcome, attempt, retry_in_s=decision.delay_s)
                if self._gives_back:
                    self._stream.give_back(message, decision.delay_s)
                    return
                await asyncio.sleep(decision.delay_s)
                attempt, outcome = attempt + 1, None
            await self._give_up(message, outcome, attempt, first_s)
        except asyncio.CancelledError:
            self._slot[Field.CANCELLED] += 1
            raise
        except Exception as error:
            logger.exception("internal error")
            self._slot[FAILED] += 1
            self._log(logging.ERROR, "message failed", message, failure(error), 0)
        finally:
            self._leave(message)

    async def _attempt(self, message: Message, attempt: int) -> Outcome | None:
        """Run the steps and publish; None when all of it is done."""
        request = Request(
            "STREAM", message.subject, message.id, message.data, message.headers, {}, {}, attempt, message.origin,
            message.number,
        )  # fmt: skip
        try:
            result = await self._sequence.run(request, clock.monotonic() + self._timeout_s)
            target = self._target or message.reply
            if target and result.data is not None:
                headers = result.headers
                if self._target_headers:
                    headers = {**self._target_headers, **headers}
                identity = f"{message.id}.{self._output_id}" if self._durable else ""
                output = Output(target, result.data, headers, message, identity, message.record_key)
                await self._stream.publish(output)
                self._slot[PUBLISHED] += 1
        except CallFailed as error:
            outcome = failure(error.error, error.function)
            field = COUNTED_CAUSES.get(outcome.cause)
            if field is not None:
                self._slot[field] += 1
            return outcome
        except PublishError as error:
            return failure(error)
        return None

    def _leave(self, message: Message) -> None:
        """Its place is free."""
        if self._ended:
            return
        self._in_flight -= 1
        self._slot[IN_FLIGHT] = self._in_flight
        if self._lanes is not None:
            following = self._lanes.leave(message)
            if following is not None:
                self._loop.call_soon(self._start, following)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _give_up(self, message: Message, outcome: Outcome, attempt: int, first_s: float) -> None:
        """Its dead letter first, then the broker may forget it; at last whoever waits for an answer."""
        self._slot[FAILED] += 1
        self._log(logging.ERROR, "message failed", message, outcome, attempt)
        if self._dead is not None:
            await self._bury(self._dead, message, outcome, attempt, first_s)
        self._stream.terminate(message)
        try:
            await self._stream.answer_error(message, outcome.code, outcome.message)
        except PublishError as error:
            self._log(logging.ERROR, "the error answer was not accepted", message, failure(error), attempt)

    async def _bury(self, dead: DeadLetters, message: Message, outcome: Outcome, attempt: int, first_s: float) -> None:
        """Until it is safe: its message is in flight meanwhile, so when many cannot be buried the handler stands."""
        delay_s, longest_s = BURY_AGAIN_S
        while True:
            try:
                await dead.put(message, outcome, attempt, first_s)
                break
            except PublishError as error:
                text = "dead letter not accepted" if self._durable else "dead letter lost"
                self._log(logging.ERROR, text, message, failure(error), attempt, retry_in_s=delay_s)
                if not self._durable:  # neither broker nor disk takes it
                    return
            await asyncio.sleep(delay_s)
            delay_s = min(longest_s, 2 * delay_s)
        self._slot[Field.DEAD] += 1

    def _log(
        self,
        level: int,
        text: str,
        message: Message,
        outcome: Outcome,
        attempt: int,
        retry_in_s: float | None = None,
    ) -> None:
        log.event(
            logger,
            level,
            text,
            handler=self._handler.name,
            function=outcome.function,
            subject=message.subject,
            message_id=message.id,
            attempt=attempt,
            cause=outcome.cause,
            code=outcome.code,
            reason=outcome.message,
            retry_in_s=retry_in_s,
        )

    def _change(self) -> asyncio.Future[None]:
        """A future that is done at the next end of a message."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter
