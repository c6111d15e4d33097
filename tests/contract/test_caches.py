"""What functions may expect of a cache, whichever it is: one suite for the one in memory and for Redis."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atmo_farm import clock
from atmo_farm.datasource.base import Source
from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.memory import ENTRY_COST, MemoryCache
from atmo_farm.datasource.redis import RedisCache
from tests.contract.asking import Asker, outcome, outcomes, ready, some_bytes
from tests.servers.redis import RedisServer
from tests.streams import run

NOT_FOUND = "FAILED: key not found"
MANY = 10_000

Body = Callable[[Asker], Coroutine[Any, Any, None]]


class CacheSuite:
    """`opened` gives a cache of one's own, `after` runs once so many seconds have gone by for it."""

    def opened(self) -> contextlib.AbstractAsyncContextManager[Source]:
        raise NotImplementedError

    async def pass_by(self, seconds: float) -> None:
        raise NotImplementedError

    def with_cache(self, body: Body) -> None:
        async def opened() -> None:
            async with self.opened() as cache:
                await ready(cache)
                await body(Asker(cache))

        run(opened())

    def test_a_value_comes_back_as_it_was_set(self) -> None:
        async def body(asker: Asker) -> None:
            assert await asker.set("key", b"value") == b""
            assert await asker.get("key") == b"value"
            assert await asker.get("key") == b"value"

        self.with_cache(body)

    def test_a_key_that_was_never_set_is_an_error_for_the_function(self) -> None:
        async def body(asker: Asker) -> None:
            assert await outcome(asker.get("nothing")) == NOT_FOUND

        self.with_cache(body)

    def test_the_last_value_of_a_key_counts(self) -> None:
        async def body(asker: Asker) -> None:
            values = [f"value {number}".encode() for number in range(20)]
            await outcomes([asker.set("key", value) for value in values])
            assert await asker.get("key") == values[-1]

        self.with_cache(body)

    @pytest.mark.parametrize(
        "value", [b"", b"\x00", b"\r\n$-1\r\n", bytes(range(256)), b"\xff\xfe", "é∑".encode(), b"x" * (8 << 20)]
    )
    def test_a_value_is_any_bytes(self, value: bytes) -> None:
        async def body(asker: Asker) -> None:
            await asker.set("key", value)
            assert await asker.get("key") == value

        self.with_cache(body)

    @pytest.mark.parametrize("key", ["", " ", "a b\r\nSET x y", "ключ-🔑", "nul\x00byte", "k" * 5000])
    def test_a_key_is_any_text(self, key: str) -> None:
        async def body(asker: Asker) -> None:
            await asker.set(key, b"value")
            await asker.set(key + "2", b"other")
            assert await asker.get(key) == b"value"

        self.with_cache(body)

    def test_a_value_is_gone_when_its_time_is_over_and_not_before(self) -> None:
        async def body(asker: Asker) -> None:
            await outcomes([asker.set("short", b"1", 1), asker.set("long", b"2", 1000), asker.set("ever", b"3", 0)])
            assert await asker.get("short") == b"1"
            await self.pass_by(1.05)
            assert await outcomes([asker.get(key) for key in ("short", "long", "ever")]) == [NOT_FOUND, b"2", b"3"]

        self.with_cache(body)

    def test_setting_anew_sets_the_time_anew(self) -> None:
        async def body(asker: Asker) -> None:
            await outcomes([asker.set("ever", b"1", 1), asker.set("ever", b"2", 0)])
            await outcomes([asker.set("short", b"1", 0), asker.set("short", b"2", 1)])
            await self.pass_by(1.05)
            assert await outcomes([asker.get("ever"), asker.get("short")]) == [b"2", NOT_FOUND]

        self.with_cache(body)

    def test_a_time_below_zero_is_for_ever(self) -> None:
        async def body(asker: Asker) -> None:
            await asker.set("key", b"value", -5)
            assert await asker.get("key") == b"value"

        self.with_cache(body)

    def test_ten_thousand_mixed_calls_in_flight_get_each_their_own_answer(self) -> None:
        async def body(asker: Asker) -> None:
            chance = random.Random(1)
            values = {f"key {number}": some_bytes(chance) + b"%d" % number for number in range(500)}
            await outcomes([asker.set(key, value) for key, value in values.items()])
            keys = [chance.choice((*values, "nothing")) for _ in range(MANY)]
            asked = [
                asker.set(f"new {number}", b"%d" % number) if number % 5 == 0 else asker.get(key)
                for number, key in enumerate(keys)
            ]
            expected = [b"" if number % 5 == 0 else values.get(key, NOT_FOUND) for number, key in enumerate(keys)]
            assert await outcomes(asked) == expected
            assert {call.ends for call in asked} == {1}

        self.with_cache(body)

    def test_cancelled_calls_never_get_their_answers_mixed_with_others(self) -> None:
        async def body(asker: Asker) -> None:
            chance = random.Random(2)
            values = {f"key {number}": b"%d:" % number + some_bytes(chance) for number in range(500)}
            await outcomes([asker.set(key, value) for key, value in values.items()])
            asked = []
            for number in range(MANY):
                key = chance.choice((*values, "nothing"))
                asked.append((key, asker.get(key)))
                if chance.random() < 0.5:
                    chance.choice(asked[-200:])[1].cancel()  # in the same turn, or while it is on its way
                if number % 37 == 0:
                    await asyncio.sleep(0)
            for key, call in asked:
                assert await outcome(call) in ("cancelled", values.get(key, NOT_FOUND))
                assert call.ends == (0 if call.cancelled() else 1)

        self.with_cache(body)

    def test_pinging_says_that_it_is_there(self) -> None:
        async def body(_: Asker) -> None:
            async with self.opened() as cache:
                await ready(cache)
                await cache.ping()

        self.with_cache(body)


class TestMemoryCache(CacheSuite):
    """In the proxy's own memory; its clock is moved on."""

    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shift_s = 0.0
        real = clock.monotonic
        monkeypatch.setattr(clock, "monotonic", lambda: real() + self.shift_s)

    async def pass_by(self, seconds: float) -> None:
        self.shift_s += seconds

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Source]:
        cache = MemoryCache(64 << 20)
        await cache.open()
        yield cache
        await cache.close()


class TestRedisCache(CacheSuite):
    """A real redis-server; every cache has a key prefix of its own."""

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.server = redis_server

    async def pass_by(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Source]:
        cache = RedisCache(self.server.connection(key_prefix=f"{uuid.uuid4()}:"))
        await cache.open()
        yield cache
        await cache.close()


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = MemoryCache(3 * (1001 + ENTRY_COST))
    for key in "abc":
        cache.set(key, bytes(1000), 0)
    assert cache.get("a") == bytes(1000)
    cache.set("d", bytes(1000), 0)
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]
    assert (cache.hits, cache.misses, cache.evicted) == (4, 1, 1)


def test_a_value_that_can_never_fit_is_refused_and_evicts_nothing() -> None:
    cache = MemoryCache(1000)
    cache.set("small", b"1", 0)
    with pytest.raises(CallFailed, match="more than the cache holds"):
        cache.set("large", bytes(1001), 0)
    assert (cache.get("small"), cache.evicted) == (b"1", 0)


def test_a_refused_value_leaves_the_older_value_of_its_key() -> None:
    """As with Redis: what has failed has changed nothing."""
    cache = MemoryCache(1000)
    cache.set("key", b"old", 0)
    with pytest.raises(CallFailed):
        cache.set("key", bytes(1001), 0)
    assert cache.get("key") == b"old"


def test_a_key_counts_with_its_bytes_not_its_characters() -> None:
    cache = MemoryCache(1 << 20)
    cache.set("🔑" * 1000, b"", 0)
    assert cache.size >= 4000


def test_an_entry_costs_what_python_takes_for_it() -> None:
    cache = MemoryCache(1 << 30)
    tracemalloc.start()
    try:
        for number in range(10_000):
            cache.set(f"some:key:{number}", b"%d" % number * 20, 60)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 * taken <= cache.size <= 1.2 * taken


_texts = st.text(max_size=12)
_steps = st.lists(st.tuples(_texts, st.binary(max_size=600), st.integers(0, 3), st.floats(0, 2)), max_size=60)


@given(_steps, st.integers(0, 3000))
@settings(max_examples=200, deadline=None)
def test_the_memory_cache_never_holds_more_than_its_capacity(
    steps: list[tuple[str, bytes, int, float]], capacity: int
) -> None:
    """Whatever is set, its size is what its entries are, within the capacity; what it gives is what was set last."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        now = [0.0]
        monkeypatch.setattr(clock, "monotonic", lambda: now[0])
        cache = MemoryCache(capacity)
        last: dict[str, tuple[bytes, float]] = {}
        for key, value, ttl_s, wait_s in steps:
            now[0] += wait_s
            with contextlib.suppress(CallFailed):
                cache.set(key, value, ttl_s)
                last[key] = value, now[0] + ttl_s if ttl_s else float("inf")
            assert 0 <= cache.size <= capacity
            for known, (expected, until) in last.items():
                assert cache.get(known) in ((None, expected) if now[0] < until else (None,))
        now[0] = 1e12
        assert [key for key, (_, until) in last.items() if until < now[0] and cache.get(key) is not None] == []
