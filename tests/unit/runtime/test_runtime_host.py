"""Every host function of the ABI table and its `_swift` twin: what reaches the services, what comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import wat_guests as wat
from laboratory import FakeServices, Laboratory, in_lab, settle
from wat_guests import NO_RESULT, PUPPET, answers, script

from atmo_farm.errors import GuestTimedOut, HostError, RunnableError

IDENT = -5
"""What the puppet passes as ident: it must not matter."""
HERE = wat.SCRIPT_AT
"""Where the script is: the bytes of its first word serve as keys and values."""


async def play(lab: Laboratory, *calls: tuple[Any, ...]) -> tuple[list[int], bytes]:
    """Let the puppet do the calls; their numbers, and its memory."""
    memory = await lab.run(PUPPET, script(*calls))
    assert memory is not None
    return answers(memory, len(calls)), memory


WAITING = {
    "fetch_url": ((3, 0, 2, 2, 3, IDENT), (3, "\0\0", b"\0\0\0")),
    "graphql_query": ((0, 2, 2, 3, IDENT), ("\0\0", "\0\0\0")),
    "cache_get": ((0, 2, IDENT), ("\0\0",)),
    "db_exec": ((1, 0, 2, IDENT), (1, "\0\0", [])),
    "get_static_file": ((0, 2, IDENT), ("\0\0",)),
    "get_secret_value": ((0, 2, IDENT), ("\0\0",)),
}


@pytest.mark.parametrize("suffix", ["", "_swift"])
@pytest.mark.parametrize("name", WAITING)
def test_functions_that_may_wait_pend_their_answer(cache_dir: Path, name: str, suffix: str) -> None:
    arguments, seen = WAITING[name]

    async def scene(lab: Laboratory) -> None:
        text = f"answer of {name}".encode()
        for wait in (False, True):
            lab.services = FakeServices(lambda *_, wait=wait: _later(text) if wait else text)
            returned, memory = await play(
                lab, (name + suffix, *arguments), ("get_ffi_result", 500, 0), ("get_ffi_result", 600, 0)
            )
            assert returned == [len(text), 0, -1]
            assert memory[500 : 500 + len(text)] == text
            assert lab.services.calls == [(name, *seen)]

    in_lab(cache_dir, scene)


async def _later(value: bytes) -> bytes:
    await asyncio.sleep(0.001)
    return value


@pytest.mark.parametrize("suffix", ["", "_swift"])
def test_cache_set_leaves_nothing_pending(cache_dir: Path, suffix: str) -> None:
    async def scene(lab: Laboratory) -> None:
        call = ("cache_set" + suffix, 0, 2, 2, 3, -60, IDENT)
        returned, _ = await play(lab, call, ("get_ffi_result", 500, 0))
        assert returned == [0, -1]
        assert lab.services.calls == [("cache_set", "\0\0", b"\0\0\0", -60)]

    in_lab(cache_dir, scene)


@pytest.mark.parametrize("suffix", ["", "_swift"])
def test_the_request_log_and_header_families(cache_dir: Path, suffix: str) -> None:
    async def scene(lab: Laboratory) -> None:
        returned, memory = await play(
            lab,
            ("request_get_field" + suffix, 2, HERE, 2, IDENT),
            ("get_ffi_result" + suffix, 500, IDENT),
            ("request_set_field" + suffix, 4, HERE, 1, HERE, 2, IDENT),
            ("resp_set_header" + suffix, HERE, 1, 0, 2, IDENT),
            ("log_msg" + suffix, HERE, 1, 2, IDENT),
        )
        assert returned == [2, 0, 0, NO_RESULT, NO_RESULT]
        first = chr(0) + chr(0)
        assert lab.services.calls[0][:2] == ("request_get_field", 2)
        assert memory[500:502] == lab.services.calls[0][2].upper().encode()
        assert [call[0] for call in lab.services.calls[1:]] == ["request_set_field", "resp_set_header", "log_msg"]
        assert lab.services.calls[2][2] == first
        assert lab.services.calls[3][1] == 2

    in_lab(cache_dir, scene)


@pytest.mark.parametrize("suffix", ["", "_swift"])
def test_variables_go_to_the_next_db_exec_and_no_further(cache_dir: Path, suffix: str) -> None:
    async def scene(lab: Laboratory) -> None:
        add = ("add_ffi_var" + suffix, 0, 1, 0, 3, IDENT)
        query = ("db_exec" + suffix, 3, 0, 1, IDENT)
        returned, _ = await play(lab, add, add, query, query, add)
        assert returned[:2] == [0, 0]
        variable = ("\0", b"\0\0\0")
        assert [call[3] for call in lab.services.calls] == [[variable, variable], []]
        function = lab.function(PUPPET)
        await lab.call(function, script(add))
        await lab.call(function, script(query))
        assert lab.services.calls[-1][3] == [], "variables of one message are not there for the next"

    in_lab(cache_dir, scene)


def test_variables_are_bounded(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        add = ("add_ffi_var", 0, 1, 0, wat.PUPPET_MEMORY, 0)
        returned, _ = await play(lab, *[add] * 80, ("db_exec", 0, 0, 1, 0))
        assert returned[0] == 0
        assert returned[79] == -1
        assert len(lab.services.calls[0][3]) < 64

    in_lab(cache_dir, scene)


class Thrown(Exception):
    pass


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize(
    ("error", "number", "text"),
    [
        (HostError("key not found"), -13, b"key not found"),
        (HostError("é"), -3, "é ".encode()),
        (HostError("x"), -3, b"x  "),
        (HostError(""), -16, b"host call failed"),
        (HostError("ignored", -2), -2, None),
        (HostError("ignored", -1), -1, None),
        (Thrown("a bug"), -1, None),
        (asyncio.CancelledError(), -23, b"host call was cancelled"),
    ],
)
def test_errors_become_numbers(
    cache_dir: Path, wait: bool, error: BaseException, number: int, text: bytes | None
) -> None:
    async def fail() -> bytes:
        await asyncio.sleep(0)
        raise error

    def answer(*_: Any) -> Any:
        if wait:
            return fail()
        raise error

    async def scene(lab: Laboratory) -> None:
        lab.services = FakeServices(answer)
        returned, memory = await play(lab, ("cache_get", 0, 1, 0), ("get_ffi_result", 500, 0))
        assert returned == [number, -1 if text is None else 0]
        if text is not None:
            assert memory[500 : 500 + len(text)] == text

    in_lab(cache_dir, scene)


def test_errors_where_nothing_can_be_pending(cache_dir: Path) -> None:
    def refuse(*_: Any) -> Any:
        raise HostError("capability is not enabled")

    async def scene(lab: Laboratory) -> None:
        lab.services = FakeServices(refuse)
        returned, _ = await play(lab, ("cache_set", 0, 1, 0, 1, 0, 0), ("get_ffi_result", 500, 0))
        assert returned == [-1, -1]

    in_lab(cache_dir, scene)


def test_an_answer_that_is_not_bytes_is_minus_one(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        for wrong in (None, "text", 5):
            lab.services = FakeServices(lambda *_, wrong=wrong: wrong)
            assert (await play(lab, ("cache_get", 0, 1, 0)))[0] == [-1]

    in_lab(cache_dir, scene)


def test_one_result_is_pending_at_a_time(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        lab.services = FakeServices(lambda name, *_: name.encode())
        returned, memory = await play(
            lab,
            ("cache_get", 0, 1, 0),
            ("get_static_file", 0, 1, 0),
            ("get_ffi_result", 500, 0),
            ("get_ffi_result", 0, 0),
        )
        assert returned == [9, 15, 0, -1]
        assert memory[500:515] == b"get_static_file"

    in_lab(cache_dir, scene)


def test_a_pending_result_is_gone_in_the_next_message(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        function = lab.function(PUPPET)
        await lab.call(function, script(("cache_get", 0, 1, 0)))
        memory = await lab.call(function, script(("get_ffi_result", 500, 0)))
        assert memory is not None
        assert answers(memory, 1) == [-1]

    in_lab(cache_dir, scene)


def test_many_large_answers_need_room_for_one(cache_dir: Path) -> None:
    """Fetched or not, an answer's room is used again: 100 of 256 KiB fit into 1 MiB."""

    async def scene(lab: Laboratory) -> None:
        lab.services = FakeServices(lambda *_: bytes(100_000))
        calls = [("cache_get", 0, 1, 0)] * 50 + [("cache_get", 0, 1, 0), ("get_ffi_result", 0, 0)] * 25
        memory = await lab.run(PUPPET, script(*calls), memory_limit=1 << 20)
        assert memory is not None

    in_lab(cache_dir, scene)


def test_an_answer_over_the_memory_limit_is_an_error_text(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        lab.services = FakeServices(lambda *_: bytes(2 << 20))
        memory = await lab.run(PUPPET, script(("cache_get", 0, 1, 0), ("get_ffi_result", 500, 0)), memory_limit=1 << 20)
        assert memory is not None
        number, fetched = answers(memory, 2)
        assert fetched == 0
        assert memory[500 : 500 - number] == b"the answer does not fit into the function's memory limit"

    in_lab(cache_dir, scene)


def test_an_error_that_does_not_fit_is_still_an_error(cache_dir: Path) -> None:
    """What is told in its place has the sign of an error, too."""

    def refuse(*_: Any) -> Any:
        raise HostError("x" * 1000)

    async def scene(lab: Laboratory) -> None:
        lab.services = FakeServices(refuse)
        for room, number in ((100, -56), (10, -1)):
            body = f"""(call $result (i32.const 0) (i32.const {32768 - room}) (i32.const 0))
              (i32.store (i32.const 0) (call $cache_get (i32.const 0) (i32.const 1) (i32.const 0)))
              (call $error (i32.load (i32.const 0)) (i32.const 0) (i32.const 0) (i32.const 0))"""
            function = lab.function(wat.guest(body, imports=wat.CACHE_GET, memory="1"), memory_limit=1 << 16)
            with pytest.raises(RunnableError) as caught:
                await lab.call(function)
            assert caught.value.code == number

    in_lab(cache_dir, scene)


def test_a_text_that_is_no_utf8_arrives_with_replacements(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        body = "(call $log (i32.const 4090) (i32.const 3) (i32.const 1) (i32.const 0))"
        log = '(import "env" "log_msg" (func $log (param i32 i32 i32 i32)))'
        await lab.run(wat.guest(body, imports=log, data="a\\ffb"))
        assert lab.services.calls == [("log_msg", 1, "a\N{REPLACEMENT CHARACTER}b")]

    in_lab(cache_dir, scene)


@pytest.mark.alone
def test_a_guest_that_waits_is_killed_at_its_deadline_and_its_task_is_cancelled(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        lab.services = FakeServices(lambda *_: never)
        function = lab.function(wat.CACHED, pool_warm=0)
        began = lab.engine.loop.time()
        with pytest.raises(GuestTimedOut, match="waiting in cache_get"):
            await lab.call(function, timeout=0.1)
        assert lab.engine.loop.time() - began < 0.15
        assert never.cancelled()
        assert function.instances == 0

    in_lab(cache_dir, scene)


def test_cancelling_the_caller_cancels_the_host_call(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        lab.services = FakeServices(lambda *_: never)
        function = lab.function(wat.CACHED, pool_warm=0)
        call = asyncio.ensure_future(lab.call(function))
        await settle()
        assert lab.services.calls
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert never.cancelled()
        assert function.instances == 0

    in_lab(cache_dir, scene)


def test_a_service_that_answers_after_the_kill_harms_nobody(cache_dir: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        stubborn = asyncio.Event()

        async def slow() -> bytes:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await stubborn.wait()
            return b"late"

        lab.services = FakeServices(lambda *_: slow())
        function = lab.function(wat.CACHED)
        with pytest.raises(GuestTimedOut):
            await lab.call(function, timeout=0.05)
        stubborn.set()
        await settle()
        lab.services = FakeServices(lambda *_: b"now")
        assert await lab.call(function) == b"now"

    in_lab(cache_dir, scene)


def test_errors_of_a_service_do_not_fill_the_log(cache_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A guest may call what fails as often as it likes."""

    def fail(*_: Any) -> Any:
        raise Thrown("a bug")

    async def scene(lab: Laboratory) -> None:
        lab.services = FakeServices(fail)
        for _ in range(10):
            await lab.run(PUPPET, script(*[("cache_get", 0, 1, 0)] * 100))

    in_lab(cache_dir, scene)
    assert 1 <= len(caplog.records) <= 150
