"""What becomes of a message after an attempt: the one place that decides it, for every broker.

outcome                                          action
ok                                               ACK      its output is safe already
failed, and `retry.on` says that it may pass     RETRY    after a delay, while there are attempts left
unknown, of a handler that is idempotent         RETRY    likewise
any other failure, and the last attempt's        BURY     dead letter, then never again
cancelled                                        LEAVE    unsettled: the broker knows what to do
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import attrs

from atmo_farm.delivery.outcome import Kind, Outcome
from atmo_farm.delivery.retry import RetryPolicy
from atmo_farm.directive.model import Retry


class Action(enum.Enum):
    """What the stream, or the worker in its stead, is to do."""

    ACK = "ack"
    RETRY = "retry"
    BURY = "bury"
    LEAVE = "leave"


@attrs.frozen
class Decision:
    """An action; `delay_s` is how long a RETRY waits."""

    action: Action
    delay_s: float = 0.0


_ACK, _BURY, _LEAVE = Decision(Action.ACK), Decision(Action.BURY), Decision(Action.LEAVE)


class Settlement:
    """Decides for one handler. `random` gives a float in [0, 1): a test passes its own."""

    def __init__(self, retry: Retry, idempotent: bool, random: Callable[[], float]):
        self._retry = RetryPolicy(retry, random)
        self._idempotent = idempotent

    def decide(self, outcome: Outcome, attempt: int) -> Decision:
        """After attempt number `attempt` (from 1, deliveries by the broker counted) ended so."""
        if outcome.kind is Kind.OK:
            return _ACK
        if outcome.kind is Kind.CANCELLED:
            return _LEAVE
        may_pass = self._idempotent if outcome.kind is Kind.UNKNOWN else self._retry.is_transient(outcome)
        if may_pass and attempt < self._retry.attempts:
            return Decision(Action.RETRY, self._retry.delay_s(attempt))
        return _BURY
