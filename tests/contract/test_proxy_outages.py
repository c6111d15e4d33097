"""The proxy's end and return, as its clients see it: who waits goes on, who was under way learns what is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from atmo_farm.ipc.client import MAX_IN_FLIGHT, PATIENCE_S, ProxyClient
from tests.contract.proxies import HANDLERS, ScriptedSource, connected, end, get, proxy_process, serving, set_
from tests.streams import run

UNDER_WAY = "transient: the data source process ended before it answered"
UNKNOWN = "unknown: the data source process ended before it answered: whether this was done is unknown"
OUT_OF_REACH = "transient: the data source process is out of reach"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "proxy.sock"


@pytest.mark.timeout(600)
@pytest.mark.fault(row="proxy-killed")
def test_killed_and_started_again_and_again(
    path: Path, amount: Callable[[int, int], int], figure: Callable[[str, object], None]
) -> None:
    """Reads under way fail as transient, writes as unknown, and calls made while it is gone are served by the next."""
    kills = amount(3, 100)

    async def body() -> None:
        longest = 0.0
        with proxy_process(path) as proxy:
            lost: list[str] = []
            client = ProxyClient(path, HANDLERS, lost.append)
            client.start()
            for number in range(kills):
                assert await get(client, "ready") == b"ready"
                reads = [get(client, f"hold {each}") for each in range(10)]
                writes = [set_(client, f"hold {each}") for each in range(10)]
                await get(client, "all have arrived")
                await asyncio.to_thread(proxy.prepare)
                proxy.kill()
                assert [await end(answer) for answer in (*reads, *writes)] == [UNDER_WAY] * 10 + [UNKNOWN] * 10
                waiting = [get(client, f"later {each}") for each in range(10)]
                await asyncio.to_thread(proxy.start)
                started = time.monotonic()
                assert [await end(answer) for answer in waiting] == [f"later {each}".encode() for each in range(10)]
                longest = max(longest, time.monotonic() - started)
                assert len(lost) == number + 1
            assert longest <= 1.0
            figure("kills", kills)
            figure("served again after the socket was there, longest, s", longest)
            await client.close()

    run(body(), patience_s=500)


async def test_waiting_calls_beyond_the_bound_go_on_with_the_next_proxy(path: Path) -> None:
    async with connected(path) as client:
        async with serving(path) as source:
            answers = [get(client, f"hold {number}") for number in range(MAX_IN_FLIGHT + 50)]
            await source.until(lambda: len(source.held) == MAX_IN_FLIGHT)
        ends = [await end(answer) for answer in answers[:MAX_IN_FLIGHT]]
        assert set(ends) == {UNDER_WAY}
        source = ScriptedSource()
        async with serving(path, source):
            await source.until(lambda: len(source.held) == 50)
            source.release()
            assert [await answer for answer in answers[MAX_IN_FLIGHT:]] == [
                f"hold {number}".encode() for number in range(MAX_IN_FLIGHT, MAX_IN_FLIGHT + 50)
            ]


async def test_calls_before_the_proxy_is_there_wait_for_it(path: Path) -> None:
    async with connected(path) as client:
        answer, given_up = get(client, "key"), get(client, "other")
        given_up.cancel()
        await asyncio.sleep(0)
        async with serving(path) as source:
            assert await answer == b"key"
            assert [call.arguments[0] for call in source.calls] == ["key"]


@pytest.mark.alone
async def test_patience_ends_and_then_calls_fail_at_once_until_it_is_back(path: Path) -> None:
    async with connected(path) as client:
        began = time.monotonic()
        assert await end(get(client, "key")) == OUT_OF_REACH
        assert PATIENCE_S - 0.1 <= time.monotonic() - began <= PATIENCE_S + 0.5
        began = time.monotonic()
        assert await end(get(client, "key")) == OUT_OF_REACH
        assert await end(set_(client, "key")) == OUT_OF_REACH  # it never went out
        assert time.monotonic() - began < 0.1
        async with serving(path):
            async with asyncio.timeout(2):
                while await end(get(client, "key")) == OUT_OF_REACH:
                    await asyncio.sleep(0.01)
            assert await get(client, "key") == b"key"


@pytest.mark.alone
async def test_a_proxy_that_takes_its_time_is_found_soon(path: Path) -> None:
    """A machine under load starts it late: what it adds to that is a fifth of a second, not as much again."""
    lost = asyncio.Event()
    client = ProxyClient(path, HANDLERS, lambda _: lost.set())
    client.start()
    async with serving(path):
        assert await get(client, "key") == b"key"
    for late_s in (0.35, 0.7, 1.2):
        await lost.wait()
        lost.clear()
        waiting = get(client, "later")
        await asyncio.sleep(late_s)
        began = time.monotonic()
        async with serving(path):
            assert await end(waiting) == b"later"
        assert time.monotonic() - began <= 0.3
    await client.close()


def test_a_proxy_that_is_stopped_for_a_while_loses_nothing(path: Path) -> None:
    async def body() -> None:
        with proxy_process(path) as proxy:
            async with connected(path) as client:
                assert await get(client, "key") == b"key"
                proxy.pause()
                answers = [get(client, f"key {number}") for number in range(5000)]
                for answer in answers[::3]:
                    answer.cancel()
                await asyncio.sleep(0)
                proxy.resume()
                for number, answer in enumerate(answers):
                    assert await end(answer) == ("cancelled" if number % 3 == 0 else f"key {number}".encode())

    run(body())


async def test_closing_the_client_fails_what_is_under_way_and_what_waits(path: Path) -> None:
    async with serving(path) as source:
        client = ProxyClient(path, HANDLERS)
        client.start()
        under_way = get(client, "hold"), set_(client, "hold")
        await source.until(lambda: len(source.held) == 2)
        waiting = [get(client, f"hold {number}") for number in range(MAX_IN_FLIGHT)]
        await client.close()
        assert [await end(answer) for answer in under_way] == [UNDER_WAY, UNKNOWN]
        assert {await end(answer) for answer in waiting} == {UNDER_WAY, OUT_OF_REACH}
        assert await end(get(client, "key")) == OUT_OF_REACH
        await source.until(lambda: len(source.forgotten) == 1)
        assert all(call.ended for call in source.calls)


async def test_closing_the_client_at_any_moment_of_connecting(path: Path) -> None:
    async with serving(path) as source:
        for turns in range(12):
            client = ProxyClient(path, HANDLERS)
            client.start()
            answer = get(client, "hold")
            for _ in range(turns):
                await asyncio.sleep(0)
            await client.close()
            assert await end(answer) in (UNDER_WAY, OUT_OF_REACH)
        async with connected(path) as client:
            assert await get(client, "key") == b"key"
        async with asyncio.timeout(5):
            while not all(call.ended for call in source.calls):
                await asyncio.sleep(0)


async def test_closing_a_client_that_was_never_started(path: Path) -> None:
    client = ProxyClient(path, HANDLERS)
    assert await end(get(client, "key")) == OUT_OF_REACH
    await client.close()


async def test_closing_the_server_gives_the_calls_under_way_up(path: Path) -> None:
    async with connected(path) as client:
        async with serving(path) as source:
            answer = set_(client, "hold")
            await source.until(lambda: len(source.held) == 1)
        assert await end(answer) == UNKNOWN
        await source.until(lambda: len(source.cancelled) == 1)
        assert len(source.forgotten) == 1
