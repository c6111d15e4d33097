"""Turns, quotas, and what becomes of calls that are given up. What the pool makes of it is in tests/contract."""

from __future__ import annotations

from atmo_farm.datasource.call import Call
from atmo_farm.datasource.queue import FairQueue
from atmo_farm.ipc.frames import Op


def call(handler: str, name: str = "", transaction: int = 0) -> Call:
    return Call(None, 1, Op.QUERY, handler, 0.0, (name, [], transaction, bool(transaction)), lambda *_: None)


def taken(queue: FairQueue) -> list[str]:
    """Who may run now, in order."""
    names = []
    while (found := queue.take()) is not None:
        names.append(found.handler + found.arguments[0])
    return names


def test_turns() -> None:
    """One of each handler that waits, then from the first again; its own are in their order."""
    queue = FairQueue(10, 1)
    for name in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(call(name[0], name[1]))
    assert len(queue) == 6
    assert taken(queue) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert len(queue) == 0


def test_quota() -> None:
    """Nobody has more than that; what has ended makes room."""
    queue = FairQueue(2, 1)
    calls = [call("a", str(n)) for n in range(4)]
    for each in calls:
        queue.put(each)
    queue.put(call("b"))
    assert taken(queue) == ["a0", "b", "a1"]
    queue.done(calls[0])
    assert taken(queue) == ["a2"]


def test_transactions() -> None:
    """So many at most, of all handlers; they count for their handler's quota, and others pass those that wait."""
    queue = FairQueue(2, 1)
    first = call("a", "T", 1)
    for each in (first, call("a", "T", 2), call("a", "1"), call("a", "2"), call("b", "T", 3), call("b", "1")):
        queue.put(each)
    assert taken(queue) == ["aT", "b1", "a1"]
    queue.done(first)
    assert taken(queue) == ["bT", "a2"]


def test_admit() -> None:
    """At once, if nobody waits, and within quota and pins."""
    queue = FairQueue(1, 1)
    one = call("a")
    assert queue.admit(one) and not queue.admit(call("a"))
    assert queue.admit(call("b", transaction=1)) and not queue.admit(call("c", transaction=1))
    queue.put(call("a"))
    assert not queue.admit(call("d"))
    queue.done(one)
    assert taken(queue) == ["a"]
    assert queue.admit(call("d"))


def test_put_back() -> None:
    """It is the next of its handler."""
    queue = FairQueue(2, 1)
    for name in "123":
        queue.put(call("a", name))
    first = queue.take()
    assert first is not None
    queue.put_back(first)
    queue.done(first)
    assert taken(queue) == ["a1", "a2"]


def test_given_up() -> None:
    """They are passed over; many of them are dropped, and the others keep their order."""
    queue = FairQueue(1000, 1000)
    calls = [call("ab"[n % 2], str(n), n % 3) for n in range(500)]
    for each in calls:
        queue.put(each)
    for each in calls[:490]:
        each.give_up()
        queue.given_up()
    assert len(queue) < 200
    names = taken(queue)
    assert len(names) == 10 and sorted(names) == sorted(each.handler + each.arguments[0] for each in calls[490:])
    assert queue.drain() == []


def test_drain() -> None:
    queue = FairQueue(1, 1)
    calls = [call("a"), call("b", transaction=1), call("a")]
    for each in calls:
        queue.put(each)
    calls[2].give_up()
    assert set(queue.drain()) == {calls[0], calls[1]}
    assert len(queue) == 0 and queue.take() is None
