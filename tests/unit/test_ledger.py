"""The ledger of fault tests finds what it is there for."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.ledger import Ledger


def whole() -> Ledger:
    """Three messages: two came out, one is a dead letter."""
    ids = {"1", "2", "3"}
    return Ledger(set(ids), set(ids), Counter({"1": 1, "2": 1}), Counter({"1": 1, "2": 1}), Counter({"3": 1}))


def test_a_good_end() -> None:
    """Nothing is said, also of a message that was offered and got no answer."""
    ledger = whole()
    ledger.offered.add("4")
    ledger.verify(dead=1)
    ledger.output["4"] += 1
    ledger.verify(dead=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ledger: ledger.output.pop("1"), "'lost': \\(1, \\['1'\\]\\)"),
        (lambda ledger: ledger.dead.pop("3"), "'lost': \\(1, \\['3'\\]\\)"),
        (lambda ledger: ledger.output.update(["1"]), "'duplicated': \\(1, \\['1'\\]\\)"),
        (lambda ledger: ledger.dead.update(["1"]), "'duplicated'"),
        (lambda ledger: ledger.output.update(["9"]), "'unexpected': \\(1, \\['9'\\]\\)"),
        (lambda ledger: ledger.worked.update(["9"]), "'unexpected'"),
        (lambda ledger: ledger.worked.update(["1"]), "work done again 1 times, more than 0"),
        (lambda ledger: setattr(ledger, "unsettled", 2), "2 unsettled"),
        (lambda ledger: ledger.published.clear(), "nothing was published"),
    ],
)
def test_a_bad_end(change: object, said: str) -> None:
    """What is wrong, how much of it, and some ids."""
    ledger = whole()
    change(ledger)  # type: ignore[operator]
    with pytest.raises(AssertionError, match=said):
        ledger.verify(dead=1)


def test_too_few_dead_letters() -> None:
    """They are counted too."""
    with pytest.raises(AssertionError, match="1 dead letters instead of 0: \\['3'\\]"):
        whole().verify()
