"""Whether and when a failed message is tried again: the `retry` key of a handler."""

from __future__ import annotations

from collections.abc import Callable

from atmo_farm.delivery.outcome import Kind, Outcome
from atmo_farm.directive.model import Retry


class RetryPolicy:
    """Decides for one handler. `random` gives a float in [0, 1): a test passes its own."""

    def __init__(self, retry: Retry, random: Callable[[], float]):
        self._retry = retry
        self._random = random
        self.attempts = retry.attempts
        """In all, the first one counted."""
        self._causes = frozenset(entry for entry in retry.on if not entry[0].isdigit())
        self._codes = tuple(_code_range(entry) for entry in retry.on if entry[0].isdigit())

    def is_transient(self, outcome: Outcome) -> bool:
        """Whether the policy counts this failure as one that may go better later."""
        if outcome.kind is not Kind.FAILED:
            return False
        if outcome.cause in self._causes:
            return True
        return outcome.cause == "error" and any(low <= outcome.code <= high for low, high in self._codes)

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) has failed."""
        try:
            delay = self._retry.initial_delay_s * self._retry.multiplier ** (attempt - 1)
        except OverflowError:
            delay = self._retry.max_delay_s
        spread = 1 + self._retry.jitter * (2 * self._random() - 1)
        return min(delay, self._retry.max_delay_s) * spread


def _code_range(entry: str) -> tuple[int, int]:
    low, _, high = entry.partition("-")
    return int(low), int(high or low)
