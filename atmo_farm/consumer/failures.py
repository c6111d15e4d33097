"""What becomes of a message whose attempt failed: counts and log lines, its dead letter, an answer to who waits."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from atmo_farm import log
from atmo_farm.consumer.sequence import CallFailed
from atmo_farm.delivery.dead_letters import DeadLetters
from atmo_farm.delivery.outcome import Outcome, failure
from atmo_farm.directive.model import Handler
from atmo_farm.errors import PublishError
from atmo_farm.ipc.arena import Field
from atmo_farm.streams.base import Message, Stream

logger = logging.getLogger("atmo_farm.consumer")

COUNTED_CAUSES = {"timeout": Field.TIMEOUTS, "trap": Field.TRAPS, "memory": Field.TRAPS}

BURY_AGAIN_S = (0.2, 30.0)
"""The first and the longest pause before a dead letter is sent again that nobody took."""


class Failures:
    """Those of one worker. `pause` waits so many seconds; False if the process is to end meanwhile and the broker keeps
    the message."""

    def __init__(
        self,
        handler: Handler,
        stream: Stream,
        slot: memoryview,
        dead: DeadLetters | None,
        pause: Callable[[float], Awaitable[bool]],
    ):
        self._handler = handler
        self._stream = stream
        self._slot = slot
        self._dead = dead
        self._pause = pause

    def outcome(self, message: Message, error: Exception) -> Outcome:
        """What a failed attempt stands for."""
        outcome = failure(error.error, error.function) if isinstance(error, CallFailed) else failure(error)
        if outcome.cause == "internal":
            self._internal(message, error)
        field = COUNTED_CAUSES.get(outcome.cause)
        if field is not None:
            self._slot[field] += 1
        return outcome

    def retry(self, message: Message, outcome: Outcome, attempt: int, delay_s: float) -> None:
        """There will be another attempt."""
        self._slot[Field.RETRIED] += 1
        self._log(logging.INFO, "message will be tried again", message, outcome, attempt, delay_s)

    async def give_up(self, message: Message, outcome: Outcome, attempt: int, first_s: float) -> bool:
        """Its dead letter first, then the broker may forget it; at last whoever waits for an answer.

        False if the letter is not safe and the process is to end.
        """
        self._log(logging.ERROR, "message failed", message, outcome, attempt)
        if self._dead is not None and not await self._bury(self._dead, message, outcome, attempt, first_s):
            return False
        self._slot[Field.FAILED] += 1
        self._stream.terminate(message)
        try:
            await self._stream.answer_error(message, outcome.code, outcome.message)
        except PublishError as error:
            self._log(logging.ERROR, "the error answer was not accepted", message, failure(error), attempt)
        return True

    def suspected(self, message: Message, deaths: int) -> None:
        """It is known to the crash ledger, and from now on either runs alone or ends."""
        text = "message is suspected: processes died while its guest ran"
        log.event(
            logger,
            logging.WARNING,
            text,
            handler=self._handler.name,
            subject=message.subject,
            message_id=message.id,
            number=str(message.number),
            deaths=deaths,
        )

    def unsettled(self, message: Message, error: Exception, attempt: int) -> None:
        """A bug of ours, after the message's own end."""
        self._internal(message, error)
        self._log(logging.ERROR, "message not settled", message, failure(error), attempt)

    async def _bury(self, dead: DeadLetters, message: Message, outcome: Outcome, attempt: int, first_s: float) -> bool:
        """Until it is safe: its message is in flight meanwhile, so when many cannot be buried the handler stands."""
        delay_s, longest_s = BURY_AGAIN_S
        while True:
            try:
                await dead.put(message, outcome, attempt, first_s)
                self._slot[Field.DEAD] += 1
                return True
            except PublishError as error:
                if not self._stream.durable:  # neither broker nor disk takes it
                    self._log(logging.ERROR, "dead letter lost", message, failure(error), attempt)
                    return True
                self._log(logging.ERROR, "dead letter not accepted", message, failure(error), attempt, delay_s)
            if not await self._pause(delay_s):
                return False
            delay_s = min(longest_s, 2 * delay_s)

    def _internal(self, message: Message, error: Exception) -> None:
        text, handler = "internal error", self._handler.name
        log.event(logger, logging.ERROR, text, exc_info=error, handler=handler, message_id=message.id)

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
