"""Lanes: order and exclusivity, and which lane a message is in."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from atmo_farm.delivery.lanes import Lanes, lane_of
from atmo_farm.streams.base import Message


def message(
    number: int = 0,
    *,
    subject: str = "s",
    data: bytes = b"",
    headers: dict[str, str] | None = None,
    partition: int = 0,
    record_key: bytes | None = None,
) -> Message:
    return Message(subject, data, headers or {}, str(number), number=number, partition=partition, record_key=record_key)


@given(some.data())
def test_each_lane_runs_one_after_the_other_in_order(data: some.DataObject) -> None:
    """Whatever ends when, nothing is lost, and different lanes do not wait for each other."""
    lanes = Lanes(lambda entered: entered.partition)
    running: dict[int, Message] = {}
    started: dict[int, list[int]] = {}
    entered: dict[int, list[int]] = {}

    def start(one: Message) -> None:
        assert one.partition not in running
        running[one.partition] = one
        started.setdefault(one.partition, []).append(one.number)

    for number, lane in enumerate(data.draw(some.lists(some.integers(0, 3), max_size=30))):
        if bool(running) and data.draw(some.booleans()):
            ended = running.pop(data.draw(some.sampled_from(sorted(running))))
            following = lanes.leave(ended)
            if following is not None:
                start(following)
        one = message(number, partition=lane)
        entered.setdefault(lane, []).append(number)
        may_run = lanes.enter(one)
        assert may_run == (lane not in running)
        if may_run:
            start(one)
    while running:
        following = lanes.leave(running.pop(data.draw(some.sampled_from(sorted(running)))))
        if following is not None:
            start(following)
    assert started == entered


@given(some.data())
def test_who_has_let_others_pass_and_failed_runs_first(data: some.DataObject) -> None:
    """In order of entering, one at a time, before all that have not begun; and no lane stays when all have left."""
    lanes = Lanes(lambda entered: entered.partition)
    waiting = [message(number) for number in range(data.draw(some.integers(1, 12)))]
    runs: list[Message] = []
    passed: list[Message] = []
    again: list[Message] = []
    """Those that have failed, until they run."""
    order: list[int] = []

    def start(one: Message | None) -> None:
        if one is not None:
            assert not runs
            runs.append(one)
            order.append(one.number)

    def run_again(one: Message) -> None:
        assert not runs and one is min(again, key=lambda failed: failed.number)
        assert all(one.number < other.number for other in passed), "one before it may still fail"
        again.remove(one)
        runs.append(one)

    first_run = set()
    while waiting or runs or passed or again:
        may = [name for name, of in (("enter", waiting), ("run", runs), ("hear", passed)) if of]
        match data.draw(some.sampled_from(may)):
            case "enter":
                one = waiting.pop(0)
                if lanes.enter(one):
                    assert not again
                    start(one)
            case "run":
                one = runs.pop()
                if one.number not in first_run and data.draw(some.booleans()):
                    passed.append(one)
                    start(lanes.let_pass(one))
                else:
                    start(lanes.leave(one))
                first_run.add(one.number)
            case "hear":
                one = passed.pop(data.draw(some.integers(0, len(passed) - 1)))
                if data.draw(some.booleans()):
                    again.append(one)
                    lanes.come_back(one, lambda one=one: run_again(one))  # type: ignore[misc]
                else:
                    start(lanes.leave(one))
    assert order == sorted(order)
    assert not lanes._lanes and not lanes._of


def test_clear_forgets_those_that_wait() -> None:
    """And says how many they were; those that run leave as ever."""
    lanes = Lanes(lambda entered: entered.partition)
    first, *others = (message(number, partition=number % 2) for number in range(6))
    assert [lanes.enter(one) for one in (first, *others)] == [True, True, False, False, False, False]
    assert lanes.clear() == 4
    assert lanes.leave(first) is None and lanes.leave(others[0]) is None
    assert lanes.enter(message(7))


def test_the_same_message_twice() -> None:
    """Delivered again while it runs, it waits behind itself."""
    lanes = Lanes(lambda entered: entered.partition)
    one, again = message(1), message(1)
    assert lanes.enter(one) and not lanes.enter(again)
    assert lanes.leave(one) is again


@pytest.mark.parametrize(
    ("ordering_key", "one", "same", "other"),
    [
        ("subject", message(subject="a.b"), message(subject="a.b", data=b"1"), message(subject="a.c")),
        ("header:X-Key", message(headers={"x-key": "1"}), message(headers={"x-key": "1", "a": ""}), message()),
        ("header:X-Key", message(), message(headers={"y": "1"}), message(headers={"x-key": "2"})),
        ("field:id", message(data=b'{"id": 7}'), message(data=b'{"a": "b", "id":7}'), message(data=b'{"id": "7"}')),
        ("field:id", message(data=b'{"id": "\\u0041"}'), message(data=b'{"id": "A"}'), message(data=b'{"id": "B"}')),
        ("field:id", message(data=b'{"id": [1]}'), message(data=b'{"id": [1]}'), message(data=b'{"id": [2]}')),
        ("field:id", message(data=b"{}"), message(data=b"no JSON"), message(data=b'{"id": null}')),
        ("field:id", message(data=b"[1]"), message(data=b"\xff{"), message(data=b'{"id": false}')),
        ("", message(record_key=b"k"), message(record_key=b"k", data=b"1"), message(record_key=b"l")),
        ("", message(record_key=b"k"), message(record_key=b"k", data=b"1"), message(record_key=b"k", partition=1)),
    ],
)
def test_the_lane_by_key(ordering_key: str, one: Message, same: Message, other: Message) -> None:
    """Subject, header, field of the body or the record's key; what has none is in one lane with its like."""
    lane = lane_of("key", ordering_key)
    assert lane(one) == lane(same) != lane(other)
    assert hash(lane(one)) == hash(lane(same))


def test_the_lane_by_partition() -> None:
    """Whatever its key is."""
    lane = lane_of("partition", "")
    assert lane(message(partition=1)) == lane(message(partition=1, record_key=b"k")) != lane(message(partition=2))


def test_a_hostile_body_has_a_lane() -> None:
    """Deep nesting, a huge number, half of a surrogate pair: some lane, and no exception."""
    lane = lane_of("key", "field:id")
    for value in (b"[" * 100_000, b"1" + b"0" * 5000, b"-1e999", b'"\\ud800"', b"1" * 5000 + b".5", b"tru"):
        hash(lane(message(data=b'{"id": ' + value + b"}")))
