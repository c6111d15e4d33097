"""The proxy's client and server over a real socket: each call gets its own answer, whatever is cancelled."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atmo_farm.datasource import clients, server
from atmo_farm.datasource.memory import MemoryCache
from atmo_farm.datasource.sources import Sources
from atmo_farm.ipc.client import MAX_IN_FLIGHT, Answer, ProxyClient
from atmo_farm.ipc.frames import Op
from atmo_farm.ipc.link import Link
from tests.contract.proxies import FAR, HANDLERS, connected, end, get, proxy_process, serving, set_, until
from tests.streams import run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "proxy.sock"


async def test_a_call_reaches_its_source_as_it_was_made(path: Path) -> None:
    async with serving(path) as source, connected(path) as client:
        calls: list[tuple[Op, tuple[object, ...]]] = [
            (Op.CACHE_GET, ("ключ",)),
            (Op.CACHE_SET, ("key", b"\xff\x00", 60)),
            (Op.QUERY, ("query", [b"", b"\xff"], 7, True)),
            (Op.COMMIT, ("default", 7)),
            (Op.ROLLBACK, ("default", 2**32 - 1)),
        ]
        for op, arguments in calls:
            assert await client.call(op, 1, 12345.678, arguments) == str(arguments[0]).encode()
            call = source.calls[-1]
            assert (call.op, call.handler, call.deadline) == (op, HANDLERS[1], 12345.678)
            assert tuple(list(x) if isinstance(x, list) else x for x in call.arguments) == arguments


async def test_how_a_call_fails_reaches_the_client(path: Path) -> None:
    async with serving(path), connected(path) as client:
        assert await end(get(client, "failed é")) == "failed: é"
        assert await end(get(client, "transient no")) == "transient: no"
        assert await end(get(client, "unknown no")) == "unknown: no"
        assert await end(client.call(Op.QUERY, 0, FAR, ("other", [], 0, False))) == "failed: query not found: other"
        assert await end(client.call(Op.COMMIT, 0, FAR, ("other", 1))) == "failed: there is no database other"


async def test_the_state_names_who_is_out_of_reach(path: Path) -> None:
    async with serving(path) as source, connected(path) as client:
        assert await client.call(Op.STATE, 0, FAR, (["cache", "nobody"],)) == b"\x80"
        source.reason = "refused"
        assert await client.call(Op.STATE, 0, FAR, (["cache"],)) == b"\x81\xa5cache\xa7refused"


async def test_a_bug_of_a_source_fails_its_call_only(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(path), connected(path) as client:
        answers = [get(client, key) for key in ("before", "broken", "after")]
        assert [await end(answer) for answer in answers] == [
            b"before",
            "failed: internal error of the data source process",
            b"after",
        ]
    assert "internal error in a call" in caplog.text


async def test_answers_in_any_order_reach_their_calls(path: Path) -> None:
    async with serving(path), connected(path) as client:
        answers = [
            (f"{word} {number}", get(client, f"{word} {number}")) for number in range(3000) for word in "later at"
        ]
        for key, answer in answers:
            assert await answer == key.encode()


async def cancel_at_random(client: ProxyClient, calls: int) -> tuple[int, int, int]:
    """Make calls and cancel half of them at any moment; (right, wrong, cancelled)."""
    chance = random.Random(5)
    right = wrong = cancelled = 0
    under_way: list[tuple[str, Answer]] = []

    async def settle(keep: int) -> None:
        nonlocal right, wrong, cancelled
        while len(under_way) > keep:
            key, answer = under_way.pop(chance.randrange(len(under_way)))
            try:
                right, wrong = (right + 1, wrong) if await answer == key.encode() else (right, wrong + 1)
            except asyncio.CancelledError:
                cancelled += 1

    for number in range(calls):
        key = f"{chance.choice(('later', 'at'))} {number}"
        under_way.append((key, get(client, key, number % 2)))
        if chance.random() < 0.6:
            chance.choice(under_way[-50:])[1].cancel()  # it may have its answer already
        if chance.random() < 0.02:
            await asyncio.sleep(0)
        if len(under_way) > 400:
            await settle(200)
    await settle(0)
    return right, wrong, cancelled


@pytest.mark.timeout(600)
@pytest.mark.fault(row="cancelled-calls")
def test_a_cancelled_call_never_gives_its_answer_to_another(
    path: Path, amount: Callable[[int, int], int], figure: Callable[[str, object], None]
) -> None:
    calls = amount(5_000, 100_000)

    async def body() -> None:
        async with connected(path) as client:
            right, wrong, cancelled = await cancel_at_random(client, calls)
            assert wrong == 0
            assert right + cancelled == calls
            assert cancelled > calls / 4
            await until(lambda: not client._answers and not client._waiting)
            figure("calls", calls)
            figure("cancelled", cancelled)
            figure("answers given to another call", wrong)

    with proxy_process(path):
        run(body(), patience_s=300)


async def test_a_cancelled_call_is_told_to_its_source(path: Path) -> None:
    async with serving(path) as source, connected(path) as client:
        answer, other = get(client, "hold 1"), get(client, "hold 2")
        await source.until(lambda: len(source.held) == 2)
        answer.cancel()
        await source.until(lambda: len(source.cancelled) == 1)
        assert source.cancelled == source.held[:1]
        assert source.cancelled[0].ended
        source.release()
        assert await other == b"hold 2"
        assert not answer.cancel()
        assert not other.cancel()


async def test_calls_over_the_bound_wait_for_their_turn_and_cancelled_ones_cost_nothing(path: Path) -> None:
    async with serving(path) as source, connected(path) as client:
        answers = [get(client, f"hold {number}") for number in range(3 * MAX_IN_FLIGHT)]
        await source.until(lambda: len(source.held) == MAX_IN_FLIGHT)
        for answer in answers[MAX_IN_FLIGHT::2]:
            answer.cancel()
        await until(lambda: len(client._waiting) == MAX_IN_FLIGHT)
        answers[0].cancel()  # makes room for one
        await source.until(lambda: len(source.held) == MAX_IN_FLIGHT + 1)
        while not all(answer.done() for answer in answers):
            source.release()
            await asyncio.sleep(0)
        left = [number for number, answer in enumerate(answers) if not answer.cancelled()]
        assert [answers[number].result() for number in left] == [f"hold {number}".encode() for number in left]
        assert len(source.calls) == 2 * MAX_IN_FLIGHT


async def test_numbers_may_become_large(path: Path) -> None:
    """At 100,000 calls a second for three million years."""
    async with serving(path), connected(path) as client:
        client._numbers = 2**63 - 20
        answers = [get(client, f"later {number}") for number in range(10)]
        assert [await answer for answer in answers] == [f"later {number}".encode() for number in range(10)]


async def test_telling_needs_nobody_to_wait(path: Path) -> None:
    async with serving(path) as source, connected(path) as client:
        client.tell(Op.ROLLBACK, 0, ("default", 1))
        client.tell(Op.ROLLBACK, 0, ("failed no", 1))
        await source.until(lambda: len(source.calls) == 1)


async def test_a_call_that_can_never_be_sent_fails_alone(path: Path) -> None:
    async with serving(path), connected(path) as client:
        answers = [
            get(client, "before"),
            get(client, "\ud800"),
            set_(client, "key", bytes(80 << 20)),
            get(client, "after"),
        ]
        assert [await end(answer) for answer in answers] == [
            b"before",
            "failed: it cannot be sent",
            "failed: 83886105 bytes are more than a call may carry",
            b"after",
        ]


async def test_many_long_keys_in_one_turn_go_out_in_frames_of_their_own(path: Path) -> None:
    async with serving(path), connected(path) as client:
        keys = [f"{number}".zfill(5000) for number in range(100)]
        answers = [get(client, key) for key in keys]
        assert [await answer for answer in answers] == [key.encode() for key in keys]


def test_a_value_of_64_mib_passes_both_ways(path: Path, figure: Callable[[str, object], None]) -> None:
    """Others are served beside it, and it costs two to three times what a bare socket costs: a cost that grows faster
    than the size would be dozens of times that."""
    value = bytes(64 << 20)

    async def body() -> tuple[float, float]:
        proxy = server.Server(Sources(MemoryCache(1 << 30), {}, {}), path)
        await proxy.start()
        async with connected(path) as client, connected(path) as other:
            began = time.process_time()
            await set_(client, "key", value)
            assert await get(client, "key") == value
            assert await end(get(other, "nothing")) == "failed: key not found"
            took = time.process_time() - began
        await proxy.close()
        return took, await bare(value)

    took, least = run(body())
    figure("64 MiB there and back, CPU s", round(took, 3))
    figure("times what a bare socket takes", round(took / least, 1))
    assert took < 4 * least


async def bare(value: bytes) -> float:
    """CPU seconds of the same bytes there and back over a socket, by nothing but asyncio's streams."""

    async def there(sender: asyncio.StreamWriter, receiver: asyncio.StreamReader) -> None:
        sender.write(value)
        assert await receiver.readexactly(len(value)) == value

    began = time.process_time()
    ends = socket.socketpair()
    left, right = [await asyncio.open_unix_connection(sock=one, limit=1 << 18) for one in ends]
    await there(left[1], right[0])
    await there(right[1], left[0])
    left[1].close()
    right[1].close()
    return time.process_time() - began


async def test_an_answer_that_is_too_large_fails_its_call(path: Path) -> None:
    async with serving(path), connected(path) as client:
        assert (
            await end(get(client, f"size {80 << 20}")) == "failed: the answer of 83886080 bytes is larger than 80 MiB"
        )
        assert await get(client, "key") == b"key"


async def test_one_write_carries_the_calls_of_a_turn_and_one_their_answers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []

    def counting(flush: Callable[[Any], None], what: str) -> Callable[[Any], None]:
        def flushing(connection: Any) -> None:
            if getattr(connection, what):
                writes.append(len(getattr(connection, what)))
            flush(connection)

        return flushing

    monkeypatch.setattr(Link, "_flush", counting(Link._flush, "requests"))
    monkeypatch.setattr(clients.ClientConnection, "_flush", counting(clients.ClientConnection._flush, "_replies"))
    async with serving(path), connected(path) as asking:
        assert await get(asking, "key") == b"key"
        del writes[:]
        for answer in [get(asking, str(number)) for number in range(clients.TURN)]:
            await answer
        assert writes == [clients.TURN, clients.TURN]
