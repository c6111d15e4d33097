"""One message's life in a consumer: a place in flight, attempts, its output or its failure, its counts."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable

from atmo_farm import clock, log
from atmo_farm.capabilities.request import Request
from atmo_farm.consumer import eager
from atmo_farm.consumer.sequence import CallFailed, Sequence
from atmo_farm.delivery.outcome import Outcome, failure
from atmo_farm.delivery.retry import RetryPolicy
from atmo_farm.directive.model import Handler
from atmo_farm.errors import PublishError
from atmo_farm.ipc.arena import Field
from atmo_farm.streams.base import Message, Output, Stream

logger = logging.getLogger("atmo_farm.consumer")

# Plain numbers: an enum member costs a lookup on its class for each message.
IN_FLIGHT, RECEIVED, DONE, FAILED = int(Field.IN_FLIGHT), int(Field.RECEIVED), int(Field.OK), int(Field.FAILED)
PUBLISHED = int(Field.PUBLISHED)
COUNTED_CAUSES = {"timeout": Field.TIMEOUTS, "trap": Field.TRAPS, "memory": Field.TRAPS}


class Worker:
    """Takes messages from the stream, at most `maxInFlight` at once, and sees each one through."""

    def __init__(self, handler: Handler, sequence: Sequence, stream: Stream, slot: memoryview):
        self._handler = handler
        self._sequence = sequence
        self._stream = stream
        self._slot = slot
        self._retry = RetryPolicy(handler.retry, random.random)
        self._loop = asyncio.get_running_loop()
        self._timeout_s = handler.timeout_s
        self._max_in_flight = handler.max_in_flight
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._done.set_result(None)
        self._in_flight = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._target = handler.respond_to.resource if handler.respond_to else ""
        self._target_headers = handler.respond_to.headers if handler.respond_to else {}

    def handle(self, message: Message) -> Awaitable[None]:
        """Take one message; what is returned is done when it has its place and its first leg is over."""
        self._slot[RECEIVED] += 1
        if self._in_flight >= self._max_in_flight:
            return self._handle_later(message)
        self._begin(message)
        return self._done

    async def _handle_later(self, message: Message) -> None:
        while self._in_flight >= self._max_in_flight:
            await self._change()
        self._begin(message)

    def _begin(self, message: Message) -> None:
        self._in_flight += 1
        task = eager.start(self._see_through(message), self._loop)
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
        cut = list(self._tasks)
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)
        return len(cut)

    async def _see_through(self, message: Message) -> None:
        """All attempts, then the end. Nothing may escape from here: a message that vanishes silently is a bug."""
        attempt = 1
        try:
            while True:
                request = Request("STREAM", message.subject, message.id, message.data, message.headers, {}, {}, attempt)
                try:
                    result = await self._sequence.run(request, clock.monotonic() + self._timeout_s)
                    target = self._target or message.reply
                    if target and result.data is not None:
                        headers = result.headers
                        if self._target_headers:
                            headers = {**self._target_headers, **headers}
                        await self._stream.publish(Output(target, result.data, headers, message))
                        self._slot[PUBLISHED] += 1
                except CallFailed as error:
                    outcome = self._count(failure(error.error, error.function))
                except PublishError as error:
                    outcome = failure(error)
                else:
                    self._slot[DONE] += 1
                    return
                delay_s = self._retry.delay_s(outcome, attempt)
                if delay_s is None:
                    await self._give_up(message, outcome, attempt)
                    return
                self._slot[Field.RETRIED] += 1
                self._log(logging.INFO, "message will be tried again", message, outcome, attempt, retry_in_s=delay_s)
                await asyncio.sleep(delay_s)
                attempt += 1
        except asyncio.CancelledError:
            self._slot[Field.CANCELLED] += 1
            raise
        except Exception as error:
            logger.exception("internal error")
            self._slot[FAILED] += 1
            self._log(logging.ERROR, "message failed", message, failure(error), 0)
        finally:
            self._in_flight -= 1
            self._slot[IN_FLIGHT] = self._in_flight
            while self._waiters:
                waiter = self._waiters.popleft()
                if not waiter.done():
                    waiter.set_result(None)

    def _count(self, outcome: Outcome) -> Outcome:
        field = COUNTED_CAUSES.get(outcome.cause)
        if field is not None:
            self._slot[field] += 1
        return outcome

    async def _give_up(self, message: Message, outcome: Outcome, attempt: int) -> None:
        self._slot[FAILED] += 1
        self._log(logging.ERROR, "message failed", message, outcome, attempt)
        try:
            await self._stream.answer_error(message, outcome.code, outcome.message)
        except PublishError as error:
            self._log(logging.ERROR, "the error answer was not accepted", message, failure(error), attempt)

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
