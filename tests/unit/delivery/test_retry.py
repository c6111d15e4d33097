"""The retry policy: which failures are tried again, and when."""

import pytest

from atmo_farm.delivery.outcome import OK, Kind, Outcome, failure
from atmo_farm.delivery.retry import RetryPolicy
from atmo_farm.directive.model import Retry
from atmo_farm.errors import GuestOutOfMemory, GuestTimedOut, GuestTrapped, PublishError, RunnableError

TIMEOUT = failure(GuestTimedOut("killed"))
TRAP = failure(GuestTrapped("unreachable"))
MEMORY = failure(GuestOutOfMemory("limit"))
ERROR_429 = failure(RunnableError(429, "slow down"))
REFUSED = failure(PublishError("too large", transient=False))
UNSENT = failure(PublishError("buffer full", transient=True))
BUG = failure(ValueError("oops"))


def policy(**keys: object) -> RetryPolicy:
    return RetryPolicy(Retry(**keys), random=lambda: 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("outcome", [TIMEOUT, UNSENT])
def test_transient_by_default(outcome: Outcome) -> None:
    """Timeouts and outputs that were not accepted are tried again."""
    assert policy().is_transient(outcome)


@pytest.mark.parametrize("outcome", [OK, TRAP, MEMORY, ERROR_429, REFUSED, BUG])
def test_permanent_by_default(outcome: Outcome) -> None:
    """Runnable errors, traps, memory limits, refused outputs and our own bugs are not."""
    assert not policy().is_transient(outcome)


def test_on_replaces_the_default_list() -> None:
    """`on: [429, 500-599]` makes just these Runnable errors transient, and timeouts permanent."""
    chosen = policy(on=("429", "500-599"))
    assert chosen.is_transient(ERROR_429)
    assert chosen.is_transient(failure(RunnableError(503, "busy")))
    assert not chosen.is_transient(failure(RunnableError(404, "no")))
    assert not chosen.is_transient(TIMEOUT)


def test_a_code_range_does_not_match_other_causes() -> None:
    """A trap has code 500 too, but only `trap` in the list makes it transient."""
    assert not policy(on=("500-599",)).is_transient(TRAP)
    assert policy(on=("trap",)).is_transient(TRAP)
    assert policy(on=("error",)).is_transient(ERROR_429)


def test_refused_outputs_and_bugs_are_never_tried_again() -> None:
    """No list can make them transient: they would fail in the same way."""
    everything = policy(on=("timeout", "datasource", "publish", "trap", "error"))
    assert not everything.is_transient(REFUSED)
    assert not everything.is_transient(BUG)


def test_delays_grow_to_their_maximum() -> None:
    """200 ms, doubled each time, at most the maximum."""
    chosen = policy(max_delay_s=1.0)
    assert [chosen.delay_s(attempt) for attempt in range(1, 6)] == [0.2, 0.4, 0.8, 1.0, 1.0]


def test_jitter_spreads_both_ways() -> None:
    """± 20 % of the delay."""
    low = RetryPolicy(Retry(), random=lambda: 0.0).delay_s(1)
    high = RetryPolicy(Retry(), random=lambda: 0.9999).delay_s(1)
    assert low == pytest.approx(0.16)
    assert high == pytest.approx(0.24, rel=1e-3)


def test_a_huge_attempt_number_does_not_overflow() -> None:
    """multiplier ** attempt may be beyond a float: then the maximum holds."""
    assert policy(multiplier=10.0).delay_s(5000) == 30.0


def test_failures_carry_cause_and_code() -> None:
    """What a log line and an error answer say."""
    assert (ERROR_429.cause, ERROR_429.code, ERROR_429.message) == ("error", 429, "slow down")
    assert (TIMEOUT.cause, TIMEOUT.code) == ("timeout", 504)
    assert (MEMORY.cause, MEMORY.code) == ("memory", 500)
    assert (BUG.kind, BUG.cause) == (Kind.REFUSED, "internal")
    assert "ValueError" in BUG.message
