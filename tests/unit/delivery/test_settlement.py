"""What becomes of a message: every kind of end, by every cause, with every policy, at every attempt."""

import itertools

import pytest

from atmo_farm.delivery.outcome import CANCELLED, KILLER, OK, Kind, Outcome, failure
from atmo_farm.delivery.settlement import Action, Settlement
from atmo_farm.directive.model import Retry
from atmo_farm.errors import (
    DataSourceError,
    GuestOutOfMemory,
    GuestTimedOut,
    GuestTrapped,
    PublishError,
    RunnableError,
)

DEFAULT = Retry().on
FAILURES = {
    "timeout": (failure(GuestTimedOut("killed")), {"timeout"}),
    "datasource": (failure(DataSourceError("down", transient=True)), {"datasource"}),
    "publish": (failure(PublishError("no answer", transient=True)), {"publish"}),
    "trap": (failure(GuestTrapped("unreachable")), {"trap"}),
    "memory": (failure(GuestOutOfMemory("limit")), set[str]()),
    "error 429": (failure(RunnableError(429, "slow down")), {"error", "429", "400-499"}),
    "error 503": (failure(RunnableError(503, "busy")), {"error", "500-599"}),
}
"""Each failure, and the entries of `retry.on` that make it transient."""
NEVER = {
    "refused output": failure(PublishError("too large", transient=False)),
    "refused query": failure(DataSourceError("no such table", transient=False)),
    "internal": failure(ValueError("a bug")),
    "killer": KILLER,
}
UNKNOWN = failure(DataSourceError("no answer to a write", unknown=True))
POLICIES = [DEFAULT, (), ("trap",), ("error",), ("429",), ("400-499",), ("500-599",), ("timeout", "error", "trap")]
ATTEMPTS = (1, 2, 5)


def decide(
    outcome: Outcome, attempt: int, on: tuple[str, ...] = DEFAULT, attempts: int = 5, idempotent: bool = False
) -> Action:
    retry = Retry(attempts=attempts, on=on)
    return Settlement(retry, idempotent, random=lambda: 0.5).decide(outcome, attempt).action


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_tried_again_while_the_policy_says_so_and_attempts_are_left(name: str, idempotent: bool) -> None:
    """And is buried else."""
    outcome, entries = FAILURES[name]
    for on, attempts in itertools.product(POLICIES, ATTEMPTS):
        for attempt in range(1, attempts + 3):  # the broker may have delivered it more often than that
            again = bool(entries & set(on)) and attempt < attempts
            wanted = Action.RETRY if again else Action.BURY
            assert decide(outcome, attempt, on, attempts, idempotent) is wanted, (on, attempt, attempts)


@pytest.mark.parametrize("name", NEVER)
def test_what_can_never_go_better_is_buried_at_once(name: str) -> None:
    """Whatever the policy says."""
    assert NEVER[name].kind is Kind.REFUSED
    for on, attempts, idempotent in itertools.product(POLICIES, ATTEMPTS, (False, True)):
        assert decide(NEVER[name], 1, on, attempts, idempotent) is Action.BURY


def test_an_unknown_outcome_is_tried_again_only_where_that_does_no_harm() -> None:
    """`idempotent: true`, whatever `retry.on` says; else it is buried, with its cause."""
    assert (UNKNOWN.kind, UNKNOWN.cause) == (Kind.UNKNOWN, "outcome unknown")
    for on, attempts in itertools.product(POLICIES, ATTEMPTS):
        for attempt in range(1, attempts + 2):
            assert decide(UNKNOWN, attempt, on, attempts, idempotent=False) is Action.BURY
            wanted = Action.RETRY if attempt < attempts else Action.BURY
            assert decide(UNKNOWN, attempt, on, attempts, idempotent=True) is wanted


def test_ok_is_acknowledged_and_what_was_cut_off_is_left_alone() -> None:
    """Also after the last attempt."""
    for on, attempts, idempotent in itertools.product(POLICIES, ATTEMPTS, (False, True)):
        for attempt in range(1, attempts + 2):
            assert decide(OK, attempt, on, attempts, idempotent) is Action.ACK
            assert decide(CANCELLED, attempt, on, attempts, idempotent) is Action.LEAVE


def test_every_kind_is_decided() -> None:
    """The cases above are all there are."""
    shown = {OK.kind, CANCELLED.kind, UNKNOWN.kind, *(outcome.kind for outcome, _ in FAILURES.values())}
    assert shown | {outcome.kind for outcome in NEVER.values()} == set(Kind)


def test_only_another_attempt_waits() -> None:
    """For as long as the policy says, which grows from attempt to attempt."""
    settlement = Settlement(Retry(initial_delay_s=0.5, jitter=0.0), False, random=lambda: 0.5)
    outcome, _ = FAILURES["timeout"]
    assert [settlement.decide(outcome, attempt).delay_s for attempt in range(1, 6)] == [0.5, 1.0, 2.0, 4.0, 0.0]
    assert settlement.decide(OK, 1).delay_s == 0.0
