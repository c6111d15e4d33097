"""What was received and not yet handed over: in order, bounded, counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo_farm.streams.base import Message
from atmo_farm.streams.pending import TURN, Pending
from tests.streams import Handled, run


def build(data: bytes) -> Message:
    return Message("s", data, {}, "id")


class Drops:
    """How many were told, call by call."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def __call__(self, count: int) -> None:
        self.told.append(count)


def test_in_order() -> None:
    """What is offered before the start and after it, one after the other."""

    async def body() -> None:
        pending, handled = Pending(build, Drops()), Handled()
        for number in range(1000):
            pending.offer(b"%d" % number, 1)
        pending.start(handled)
        await handled.payloads(1000)
        for number in range(1000, 1010):
            pending.offer(b"%d" % number, 1)
            await asyncio.sleep(0)
        assert await handled.payloads(1010) == [b"%d" % number for number in range(1010)]
        assert len(pending) == 0
        await pending.finish()

    run(body())


def test_the_next_waits_for_the_handler() -> None:
    """One at a time: while the handler has not returned, the others are pending."""

    async def body() -> None:
        pending, handled = Pending(build, Drops()), Handled(shut=True)
        pending.start(handled)
        for data in (b"a", b"b", b"c"):
            pending.offer(data, 1)
        assert await handled.payloads(1) == [b"a"]
        assert len(pending) == 2
        handled.open()
        assert await handled.payloads(3) == [b"a", b"b", b"c"]
        await pending.finish()

    run(body())


@pytest.mark.parametrize(("bounds", "sizes", "kept"), [
    ({"max_messages": 3}, [0, 0, 0, 0, 0], 3),
    ({"max_bytes": 10}, [4, 4, 4, 4], 2),
    ({"max_bytes": 10}, [4, 6, 1], 2),
    ({"max_bytes": 10}, [99, 1], 1),
    ({"max_bytes": 10}, [9, 9, 1, 1], 2),
])  # fmt: skip
def test_over_a_bound_the_new_ones_are_dropped(bounds: dict[str, int], sizes: list[int], kept: int) -> None:
    """By messages and by bytes; one that is larger than the whole bound passes when nothing else is there."""
    drops = Drops()
    pending = Pending(build, drops, **bounds)
    for size in sizes:
        pending.offer(b"x" * size, size)
    assert len(pending) == kept
    assert drops.told == []
    pending.tell_drops()
    pending.tell_drops()
    assert drops.told == [len(sizes) - kept]


def test_a_dropped_one_is_never_built() -> None:
    """Dropping is cheap."""
    built: list[bytes] = []

    def count(data: bytes) -> Message:
        built.append(data)
        return build(data)

    async def body() -> None:
        pending, handled = Pending(count, Drops(), max_messages=2), Handled()
        for data in (b"a", b"b", b"c"):
            pending.offer(data, 1)
        pending.start(handled)
        await pending.finish()

    run(body())
    assert built == [b"a", b"b"]


def test_there_is_room_again_after_the_hand_over() -> None:
    """Bytes and places are given back."""

    async def body() -> None:
        drops, handled = Drops(), Handled()
        pending = Pending(build, drops, max_messages=2, max_bytes=2)
        pending.start(handled)
        for number in range(1, 20):
            pending.offer(b"x", 1)
            pending.offer(b"x", 1)
            await handled.payloads(2 * number)
        pending.tell_drops()
        assert drops.told == []
        await pending.finish()

    run(body())


def test_finish_hands_over_what_is_there() -> None:
    """It returns when the last one has been taken, not before."""

    async def body() -> None:
        pending, handled = Pending(build, Drops()), Handled(shut=True)
        pending.start(handled)
        for data in (b"a", b"b", b"c"):
            pending.offer(data, 1)
        finish = asyncio.ensure_future(pending.finish())
        await handled.payloads(1)
        assert not finish.done()
        handled.open()
        await finish
        assert await handled.payloads(3) == [b"a", b"b", b"c"]

    run(body())


def test_finish_that_is_given_up_does_not_stop_the_hand_over() -> None:
    """The drain deadline cuts the waiting off; `cancel` is what ends the rest."""

    async def body() -> None:
        pending, handled = Pending(build, Drops()), Handled(shut=True)
        pending.start(handled)
        pending.offer(b"a", 1)
        pending.offer(b"b", 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pending.finish(), 0.01)
        handled.open()
        assert await handled.payloads(2) == [b"a", b"b"]

    run(body())


@pytest.mark.parametrize("before", ["nothing", "start", "abandon", "finish"])
def test_finish_returns_in_any_state(before: str) -> None:
    """Not started, idle, cancelled, finished already."""

    async def body() -> None:
        pending = Pending(build, Drops())
        if before != "nothing":
            pending.start(Handled())
        if before == "abandon":
            pending.abandon()
        if before == "finish":
            await pending.finish()
        await pending.finish()

    run(body())


def test_abandon_loses_what_is_there_and_says_how_many() -> None:
    """At once, also while the handler waits."""

    async def body() -> None:
        pending, handled = Pending(build, Drops()), Handled(shut=True)
        pending.start(handled)
        pending.offer(b"a", 1)
        pending.offer(b"b", 1)
        await handled.payloads(1)
        assert pending.abandon() == 2
        handled.open()
        await asyncio.sleep(0.01)
        assert [message.data for message in handled.messages] == [b"a"]
        assert len(pending) == 0

    run(body())


@pytest.mark.parametrize("where", ["build", "handle"])
def test_an_error_loses_one_message_and_not_the_stream(where: str) -> None:
    """It never should; if it does, the loop's exception handler is told, and the next message is handed over."""

    def build_or_fail(data: bytes) -> Message:
        if where == "build" and data == b"bad":
            raise ValueError("build")
        return build(data)

    async def body() -> tuple[list[dict[str, Any]], list[bytes]]:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        handled = Handled()

        async def handle(message: Message) -> None:
            if where == "handle" and message.data == b"bad":
                raise ValueError("handle")
            await handled(message)

        pending = Pending(build_or_fail, Drops())
        for data in (b"a", b"bad", b"b"):
            pending.offer(data, 1)
        pending.start(handle)
        await pending.finish()
        return told, [message.data for message in handled.messages]

    told, payloads = run(body())
    assert payloads == [b"a", b"b"]
    assert [str(context["exception"]) for context in told] == [where]


def test_a_long_queue_lets_the_loop_turn() -> None:
    """After each 128 messages, so that reading, timers and heartbeats go on."""

    async def body() -> int:
        pending, turns = Pending(build, Drops()), 0

        async def take(_message: Message) -> None:
            pass

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        loop = asyncio.get_running_loop()
        for _ in range(TURN * 20):
            pending.offer(b"", 0)
        pending.start(take)
        loop.call_soon(turn)
        await pending.finish()
        return turns

    assert run(body()) >= 20


@given(
    st.integers(1, 8),
    st.integers(1, 64),
    st.lists(st.one_of(st.integers(0, 40), st.just("turn")), max_size=60),
)
def test_nothing_is_lost_uncounted(max_messages: int, max_bytes: int, script: list[int | str]) -> None:
    """Offered = handed over + dropped, in order, whatever comes when; the bounds hold all the time."""

    async def body() -> tuple[int, int, list[bytes]]:
        drops, handled = Drops(), Handled()
        pending = Pending(build, drops, max_messages, max_bytes)
        pending.start(handled)
        offered = 0
        for step in script:
            if isinstance(step, int):
                pending.offer(b"%d" % offered, step)
                offered += 1
                assert len(pending) <= max_messages
            else:
                pending.tell_drops()
                await asyncio.sleep(0)
        await pending.finish()
        pending.tell_drops()
        return offered, sum(drops.told), [message.data for message in handled.messages]

    offered, dropped, taken = run(body())
    numbers = [int(data) for data in taken]
    assert offered == dropped + len(numbers)
    assert numbers == sorted(set(numbers))


def test_drops_are_told_to_whom_it_was_given() -> None:
    """Offers of a batch are told as one count."""
    told: list[int] = []
    remember: Callable[[int], None] = told.append
    pending = Pending(build, remember, max_messages=1)
    for _ in range(5):
        pending.offer(b"", 0)
    pending.tell_drops()
    pending.offer(b"", 0)
    pending.tell_drops()
    assert told == [4, 1]


def test_what_is_withdrawn_is_not_handed_over() -> None:
    """It comes back as it was offered; what comes after it goes on."""

    async def body() -> None:
        handled = Handled(shut=True)
        pending = Pending(build, Drops())
        pending.start(handled)
        for number in range(4):
            pending.offer(b"%d" % number, 10)
        await handled.payloads(1)
        assert pending.size == 30
        assert pending.withdraw() == [b"1", b"2", b"3"]
        assert (len(pending), pending.size) == (0, 0)
        pending.offer(b"4", 10)
        handled.open()
        assert await handled.payloads(2) == [b"0", b"4"]
        await pending.finish()

    run(body())
