"""Redis that dies, hangs, lies or says no: calls fail as they should, none gets another's answer, and it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable

import pytest

from atmo_farm import clock
from atmo_farm.datasource import redis_connection
from atmo_farm.datasource.call import EARLY_S
from atmo_farm.datasource.redis import MAX_UNANSWERED, RedisCache
from atmo_farm.datasource.redis_connection import RedisLink
from tests.contract.asking import Asker, Failed, down, outcome, outcomes, ready
from tests.servers.fake_redis import FakePeer, FakeRedis, fake_redis, saying, silent
from tests.servers.redis import RedisServer
from tests.streams import run

StartRedis = Callable[[str], RedisServer]

AT_ONCE_S = 0.1
BACK_S = 2.0


@contextlib.asynccontextmanager
async def opened(server: RedisServer | FakeRedis, timeout_s: float = 5.0) -> AsyncIterator[RedisCache]:
    cache = RedisCache(server.connection(), timeout_s=timeout_s)
    await cache.open()
    await ready(cache)
    try:
        yield cache
    finally:
        await cache.close()


class Watch:
    """How long something took."""

    def __enter__(self) -> Watch:
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.took_s = time.monotonic() - self._began


@pytest.mark.alone
@pytest.mark.fault(row="redis-stopped")
def test_a_killed_server_fails_calls_at_once_and_serves_within_two_seconds_of_its_return(
    start_redis: StartRedis, figure: Callable[[str, object], None]
) -> None:
    server = start_redis("")

    async def body() -> None:
        async with opened(server) as cache:
            asker = Asker(cache)
            await asker.set("key", b"value")
            server.pause()
            under_way = [asker.get("key"), asker.set("key", b"other")]
            await asyncio.sleep(0)  # both have gone out
            server.kill()
            with Watch() as lost:
                ends = await outcomes(under_way)
            assert all(str(end).startswith("TRANSIENT: redis: the connection was lost") for end in ends), ends
            slowest = 0.0
            for _ in range(50):
                with Watch() as each:
                    assert str(await outcome(asker.get("key"))).startswith("TRANSIENT: redis is out of reach: ")
                slowest = max(slowest, each.took_s)
            assert max(lost.took_s, slowest) <= AT_ONCE_S
            server.start()
            with Watch() as back:
                await ready(cache)
            assert back.took_s <= BACK_S
            assert await outcome(asker.get("key")) == "FAILED: key not found"
            figure("slowest error, s", slowest)
            figure("back after, s", back.took_s)

    run(body())


@pytest.mark.alone
@pytest.mark.fault(row="redis-half-open")
def test_a_stopped_server_counts_as_down_after_five_silent_calls(
    start_redis: StartRedis, figure: Callable[[str, object], None]
) -> None:
    server = start_redis("")

    async def body() -> None:
        async with opened(server) as cache:
            asker = Asker(cache)
            await asker.set("key", b"value")
            server.pause()
            assert await outcomes([asker.get("key", within_s=0.2) for _ in range(5)]) == ["timeout"] * 5
            with Watch() as error:
                assert "it does not answer" in str(await outcome(asker.get("key")))
            assert error.took_s <= AT_ONCE_S
            server.resume()
            with Watch() as back:
                await ready(cache)
            assert back.took_s <= BACK_S
            assert await asker.get("key") == b"value"
            figure("back after, s", back.took_s)

    run(body())


def test_a_timer_that_is_a_little_early_counts_as_silence(start_redis: StartRedis) -> None:
    """Timers of the loop count whole milliseconds."""
    server = start_redis("")

    async def body() -> None:
        async with opened(server) as cache:
            asker = Asker(cache)
            await asker.set("key", b"value")
            server.pause()
            asked = [asker.get("key", within_s=0.2) for _ in range(5)]
            while clock.monotonic() < asked[0].call.deadline - EARLY_S / 2:
                await asyncio.sleep(0)
            for one in asked:
                one.expire()
            assert await outcomes(asked) == ["timeout"] * 5
            assert "it does not answer" in str(await outcome(asker.get("key", within_s=1)))

    run(body())


@pytest.mark.alone
def test_a_stopped_server_is_given_up_when_a_reply_is_due_for_longer_than_the_timeout(start_redis: StartRedis) -> None:
    server = start_redis("")

    async def body() -> None:
        async with opened(server, timeout_s=0.3) as cache:
            server.pause()
            with Watch() as waited:
                end = await outcome(Asker(cache).get("key"))
            assert "it does not answer" in str(end)
            assert 0.25 <= waited.took_s <= 0.3 + AT_ONCE_S

    run(body())


def test_cancelling_before_the_deadline_says_nothing_about_the_server(start_redis: StartRedis) -> None:
    server = start_redis("")

    async def body() -> None:
        async with opened(server) as cache:
            asker = Asker(cache)
            server.pause()
            for _ in range(20):
                asked = asker.get("key")
                await asyncio.sleep(0)
                asked.cancel()
            assert cache.problem() == ""
            server.resume()
            assert await outcome(asker.get("key")) == "FAILED: key not found"

    run(body())


def test_deadlines_that_a_busy_server_misses_do_not_make_it_count_as_down() -> None:
    """It answers, only later than these calls could wait."""

    async def body() -> None:
        async with fake_redis() as fake, opened(fake) as cache:
            asker = Asker(cache)
            asked = [asker.get("key", within_s=0.5) for _ in range(20)]
            answered = asker.get("first")
            await asyncio.sleep(0.02)
            fake.peers[-1].say(b"$1\r\n1\r\n")
            assert await outcome(asked[0]) == b"1"
            assert await outcomes(asked[1:]) == ["timeout"] * 19
            assert cache.problem() == ""
            fake.peers[-1].say(b"$1\r\n1\r\n" * 20)
            assert await answered == b"1"

    run(body())


def test_a_connection_that_the_server_closes_while_it_is_idle_is_replaced_unseen(
    start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atmo_farm.datasource.redis.SHORT_LIFE_S", 0.0)
    server = start_redis("")

    async def body() -> None:
        async with opened(server) as cache, opened(server) as other:
            await Asker(cache).set("key", b"value")
            link = other._link
            assert link is not None and link._transport is not None
            link._transport.write(b"*4\r\n$6\r\nCLIENT\r\n$4\r\nKILL\r\n$6\r\nSKIPME\r\n$3\r\nyes\r\n")
            before = cache._link
            async with asyncio.timeout(5):
                while cache._link is before:
                    assert cache.problem() == ""
                    await asyncio.sleep(0)
            assert await Asker(cache).get("key") == b"value"

    run(body())


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage\r\n",
        b":5\r\n",
        b"*2\r\n+a\r\n+b\r\n",
        b"$-1\r\n$-1\r\n$-1\r\n",
        b"$5\r\nfive",
        b"\x00" * 100,
        b"%0\r\n",
    ],
)
def test_garbage_ends_the_connection_only(garbage: bytes) -> None:
    """The call of that reply fails at the latest with the connection; the next connection serves the next calls."""

    async def body() -> None:
        async with fake_redis(saying(garbage)) as fake, opened(fake, timeout_s=0.3) as cache:
            asker = Asker(cache)
            assert str(await outcome(asker.set("key", b"value"))).startswith("TRANSIENT: ")
            fake.script = saying(b"+OK\r\n")
            await ready(cache)
            assert await asker.set("key", b"value") == b""
            assert len(fake.peers) >= 2

    run(body())


def test_a_reply_too_many_ends_the_connection_before_a_later_call_could_take_it() -> None:
    async def body() -> None:
        async with fake_redis(saying(b"$3\r\none\r\n$3\r\ntwo\r\n")) as fake, opened(fake) as cache:
            assert await Asker(cache).get("key") == b"one"
            fake.script = saying(b"$5\r\nright\r\n")
            end = await outcome(Asker(cache).get("key"))
            assert end == b"right" or str(end).startswith("TRANSIENT: ")
            await ready(cache)
            assert await Asker(cache).get("key") == b"right"
            assert len(fake.peers) == 2

    run(body())


def test_a_server_that_hangs_up_each_time_is_not_called_more_than_every_half_second() -> None:
    async def body() -> None:
        async with fake_redis(lambda peer, _: peer.transport.abort()) as fake, opened(fake) as cache:
            async with asyncio.timeout(5):
                began = time.monotonic()
                while len(fake.peers) < 4:
                    await outcome(Asker(cache).get("key"))
                    await asyncio.sleep(0)
                assert time.monotonic() - began >= 1.0

    run(body())


@pytest.mark.parametrize(
    ("reply", "end"),
    [
        ("LOADING Redis is loading the dataset in memory", "TRANSIENT: redis: it is loading its data (LOADING)"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "TRANSIENT: redis: its memory is full (OOM)"),
        ("READONLY You can't write against", "TRANSIENT: redis: it is a read-only replica (READONLY)"),
        ("MISCONF Redis is configured", "TRANSIENT: redis: it cannot save its data and takes no writes (MISCONF)"),
        ("BUSY Redis is busy", "TRANSIENT: redis: a script keeps it busy (BUSY)"),
        ("MASTERDOWN Link", "TRANSIENT: redis: it is a replica without its master (MASTERDOWN)"),
        ("CLUSTERDOWN The cluster is down", "TRANSIENT: redis: its cluster is down (CLUSTERDOWN)"),
        ("NOAUTH Authentication required.", "TRANSIENT: redis: it asks for a password (NOAUTH)"),
        ("WRONGTYPE Operation", "FAILED: redis: the key holds something that is not a string (WRONGTYPE)"),
        ("NOPERM s3cret", "FAILED: redis: its user has no permission for this (NOPERM)"),
        ("MOVED 3999 127.0.0.1:6381", "FAILED: redis: it is one node of a cluster"),
        ("ERR unknown command, with args beginning with: s3cret", "FAILED: redis: error ERR"),
        ("s3cret", "FAILED: redis: error unknown"),
        ("", "FAILED: redis: error unknown"),
    ],
)
def test_an_error_reply_is_told_by_its_first_word_and_quotes_nothing(reply: str, end: str) -> None:
    async def body() -> None:
        async with fake_redis(saying(f"-{reply}\r\n".encode())) as fake, opened(fake) as cache:
            ends = [str(await outcome(Asker(cache).get("key"))), str(await outcome(Asker(cache).set("key", b"s3cret")))]
            assert ends[0].startswith(end)
            assert ends[0] == ends[1]
            assert "s3cret" not in ends[0]
            assert cache.problem() == ""

    run(body())


def test_a_full_redis_takes_no_more_and_says_so(start_redis: StartRedis) -> None:
    server = start_redis("maxmemory 2mb\nmaxmemory-policy noeviction")

    async def body() -> None:
        async with opened(server) as cache:
            asker = Asker(cache)
            ends = await outcomes([asker.set(str(number), bytes(200_000)) for number in range(30)])
            assert "TRANSIENT: redis: its memory is full (OOM)" in ends

    run(body())


def test_a_master_that_became_a_replica_is_looked_up_anew(
    start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_connection, "MASTER_MOVED_S", 0.0)
    monkeypatch.setattr("atmo_farm.datasource.redis.SHORT_LIFE_S", 0.0)

    async def body() -> None:
        reply = saying(b"-READONLY You can't write against a read only replica.\r\n")
        async with fake_redis(reply) as fake, opened(fake) as cache:
            assert str(await outcome(Asker(cache).set("key", b"1"))).startswith("TRANSIENT: redis: it is a read-only")
            fake.script = saying(b"+OK\r\n")
            assert await Asker(cache).set("key", b"1") == b""
            assert len(fake.peers) == 2

    run(body())


def test_a_value_that_is_larger_than_a_reply_may_be_fails_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_connection, "LARGEST_REPLY", 1 << 20)

    async def body() -> None:
        def endless(peer: FakePeer, _: list[bytes]) -> None:
            peer.say(b"$500000000\r\n" + bytes(2 << 20))

        async with fake_redis(endless) as fake, opened(fake) as cache:
            ends = await outcomes([Asker(cache).get("large"), Asker(cache).get("other")])
            assert ends[0] == "FAILED: redis: the value is larger than 1 MiB"
            assert str(ends[1]).startswith("TRANSIENT: ")

    run(body())


def test_all_calls_of_one_turn_go_out_in_one_write(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines: list[int] = []
    send = RedisLink.send
    monkeypatch.setattr(RedisLink, "send", lambda link, calls: (pipelines.append(len(calls)), send(link, calls)))

    async def body() -> None:
        async with opened(redis_server) as cache:
            asker = Asker(cache)
            await outcomes([asker.get("nothing") for _ in range(500)])
            assert pipelines == [500]
            given_up = asker.get("nothing")
            given_up.cancel()
            await outcome(asker.get("nothing"))
            assert pipelines == [500, 1]

    run(body())


def test_a_server_that_does_not_answer_is_owed_a_bounded_number_of_replies() -> None:
    async def body() -> None:
        async with fake_redis() as fake, opened(fake) as cache:
            asker = Asker(cache)
            asked = [asker.get(str(number)) for number in range(3 * MAX_UNANSWERED)]
            answered = 0
            while answered < len(asked):
                peer = fake.peers[-1]
                async with asyncio.timeout(5):
                    while len(peer.commands) < min(answered + MAX_UNANSWERED, len(asked)):
                        await asyncio.sleep(0.001)
                assert len(peer.commands) - answered <= MAX_UNANSWERED
                for _ in range(100):
                    if answered < len(peer.commands):
                        key = peer.commands[answered][1]
                        peer.say(b"$%d\r\n%b\r\n" % (len(key), key))
                        answered += 1
            assert await outcomes(asked) == [str(number).encode() for number in range(len(asked))]

    run(body())


def test_a_server_that_does_not_read_is_not_sent_more_than_it_may_buffer() -> None:
    async def body() -> None:
        async with fake_redis(silent) as fake, opened(fake) as cache:
            fake.peers[-1].transport.pause_reading()
            asker = Asker(cache)
            asked = [asker.set("key", bytes(256 << 10)) for _ in range(200)]
            await asyncio.sleep(0.1)
            assert cache._link is not None and cache._link._transport is not None
            assert cache._link._transport.get_write_buffer_size() <= 3 << 20
            fake.script = saying(b"+OK\r\n")
            for _ in fake.peers[-1].commands:
                fake.peers[-1].say(b"+OK\r\n")
            fake.peers[-1].transport.resume_reading()
            assert await outcomes(asked) == [b""] * 200

    run(body())


@pytest.mark.timeout(600)
@pytest.mark.fault(row="cancelled-calls")
def test_cancelled_while_the_connection_breaks_again_and_again(
    start_redis: StartRedis, amount: Callable[[int, int], int], figure: Callable[[str, object], None]
) -> None:
    """Each answer is the one of its key, over kills of the connection and cancelled calls."""
    server = start_redis("")

    async def body() -> None:
        chance = random.Random(3)
        async with opened(server) as cache, opened(server) as killer:
            asker = Asker(cache)
            await outcomes([asker.set(f"key {number}", b"value %d" % number) for number in range(100)])
            right = wrong = failed = 0
            for turn in range(amount(100, 1000)):
                asked = [(number, asker.get(f"key {number}")) for number in chance.choices(range(100), k=100)]
                await asyncio.sleep(0)
                for _, call in chance.sample(asked, 50):
                    call.cancel()
                if turn % 10 == 0 and killer._link is not None and killer._link._transport is not None:
                    killer._link._transport.write(b"CLIENT KILL TYPE normal SKIPME yes\r\n")
                for number, call in asked:
                    try:
                        answer = await call
                    except (asyncio.CancelledError, Failed):
                        failed += 1
                        continue
                    right += answer == b"value %d" % number
                    wrong += answer != b"value %d" % number
                await ready(cache)
                await ready(killer)
            assert wrong == 0
            assert right > 0
            figure("calls", right + failed)
            figure("wrong answers", wrong)

    run(body(), patience_s=500)


def test_closing_fails_what_is_under_way(start_redis: StartRedis) -> None:
    server = start_redis("")

    async def body() -> None:
        async with opened(server) as cache:
            server.pause()
            asked = [Asker(cache).get("key"), Asker(cache).set("key", b"1")]
            await asyncio.sleep(0)
            waiting = Asker(cache).get("key")
            with Watch() as closing:
                await cache.close()
            assert closing.took_s < 1
            assert set(await outcomes([*asked, waiting])) == {"TRANSIENT: the data source process ends"}

    run(body())


def test_closing_while_it_is_down() -> None:
    async def body() -> None:
        async with fake_redis() as fake:
            fake.greeting = {}
            cache = RedisCache(fake.connection())
            await cache.open()
            assert await outcome(Asker(cache).get("key")) == "TRANSIENT: redis is out of reach: not connected yet"
            await down(cache)
            await cache.close()

    run(body())
