"""Messages through a real farm: a real nats-server, a real master, real consumers, real guests."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from tests.farm import Farm, nats_directive, write_app
from tests.servers.nats import NatsServer, max_payload

GUESTS = ("hello", "upper-case", "failing", "trapping", "looping", "request-reading", "state-using", "logging",
          "header-setting", "filtering", "memory-eating", "recursing", "remembering")  # fmt: skip

HANDLERS = (
    "resource: t.hello\nworkers: 2\nsteps: [{fn: hello}]",
    "resource: t.read.*.>\nsteps: [{fn: request-reading}]",
    "resource: t.fail\nsteps: [{fn: failing}]",
    "resource: t.trap\nsteps: [{fn: trapping}]",
    "resource: t.loop\ntimeout: 300ms\nretry: {attempts: 2, initialDelay: 10ms}\nsteps: [{fn: looping}]",
    "resource: t.eat\nmemoryLimit: 4MiB\nsteps: [{fn: memory-eating}]",
    "resource: t.recurse\nsteps: [{fn: recursing}]",
    "resource: t.log\nsteps: [{fn: logging}]",
    "resource: t.headers\nsteps: [{fn: header-setting}]",
    "resource: t.filter\nsteps: [{fn: filtering}]",
    "resource: t.fresh\nisolation: fresh\nsteps: [{fn: remembering}]",
    "resource: t.pooled\npool: {warm: 1, max: 1}\nsteps: [{fn: remembering}]",
    "resource: t.to\nsteps: [{fn: upper-case}]\nrespondTo: {source: nats, resource: t.out}",
    "resource: t.onerr\nsteps: [{fn: failing, onErr: {code: {409: continue}, other: return}},"
    " {fn: upper-case}]\nresponse: failing",
    "resource: t.group\nsteps: [{group: [{fn: upper-case, as: up}, {fn: hello, as: hi}]}]\nresponse: up",
    "resource: t.grav\nsteps: [{fn: upper-case}]",
    "resource: t.off\ngroup: off\nworkers: 2\nsteps: [{fn: upper-case}]\n"
    "respondTo: {source: nats, resource: t.off-out}",
)


@pytest.fixture(scope="module")
def farm(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    app = write_app(
        tmp_path_factory.mktemp("app") / "app",
        nats_directive(nats_server.url, *HANDLERS),
        *(("c", name) for name in GUESTS),
    )
    with Farm(app) as running:
        yield running


@pytest.fixture
def talk(farm: Farm, nats_server: NatsServer) -> Callable[[Callable[[Any], Awaitable[Any]]], Any]:
    """Run a coroutine function with a NATS client."""

    def run(body: Callable[[Any], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            client = await nats.connect(nats_server.url)
            try:
                return await body(client)
            finally:
                await client.close()

        return asyncio.run(main())

    return run


def ask(talk: Any, subject: str, data: bytes, headers: dict[str, str] | None = None) -> Msg:
    return talk(lambda client: client.request(subject, data, timeout=10, headers=headers))


def test_a_request_is_answered(talk: Any) -> None:
    """The result goes to the reply subject as raw bytes."""
    assert ask(talk, "t.hello", b"bob").data == b"hello, bob"
    assert ask(talk, "t.hello", b"").data == b"hello, "


def test_two_workers_answer_each_message_once(talk: Any, farm: Farm) -> None:
    """A queue group shares the messages: 500 requests, 500 answers."""

    async def body(client: Any) -> list[bytes]:
        inbox = client.new_inbox()
        answers: list[bytes] = []
        done = asyncio.Event()

        async def answered(message: Msg) -> None:
            answers.append(message.data)
            if len(answers) >= 500:
                done.set()

        await client.subscribe(inbox, cb=answered)
        for number in range(500):
            await client.publish("t.hello", b"%d" % number, reply=inbox)
        await asyncio.wait_for(done.wait(), 20)
        await client.request("t.hello", b"last", timeout=5)
        await client.flush()
        return answers

    answers = talk(body)
    assert sorted(answers) == sorted(b"hello, %d" % number for number in range(500))


def test_the_request_that_a_function_sees(talk: Any) -> None:
    """STREAM, the concrete subject, a UUID, headers in any case, fields of the JSON body."""
    wanted = b"header:X-One header:x-one header:Atmo-Attempt query:q state:s"
    answer = json.loads(ask(talk, "t.read.a.b.c", wanted, {"X-One": "1"}).data)
    assert answer["method"] == "STREAM"
    assert answer["url"] == "t.read.a.b.c"
    assert len(answer["id"]) == 36
    assert answer["fields"]["header:X-One"] == answer["fields"]["header:x-one"] == "1"
    assert answer["fields"]["header:Atmo-Attempt"] == "1"


def test_a_runnable_error_is_answered_and_logged(talk: Any, farm: Farm) -> None:
    """An empty body with the service error headers; one log line that names all."""
    answer = ask(talk, "t.fail", b"418 no coffee", {"Nats-Msg-Id": "tea-1"})
    assert answer.data == b""
    assert answer.headers == {"Nats-Service-Error-Code": "418", "Nats-Service-Error": "no coffee"}
    line = farm.wait_log(message_id="tea-1")
    assert {
        "handler": "nats-t_fail",
        "function": "failing",
        "subject": "t.fail",
        "cause": "error",
        "code": 418,
    }.items() <= line.items()
    assert line["reason"] == "no coffee" and line["level"] == "error"


@pytest.mark.parametrize(
    ("subject", "code"), [("t.trap", "500"), ("t.loop", "504"), ("t.eat", "500"), ("t.recurse", "500")]
)
def test_guests_that_fail_by_force(talk: Any, farm: Farm, subject: str, code: str) -> None:
    """Trap, endless loop, memory bomb and endless recursion: an error answer, and the process lives on."""
    before = set(farm.children())
    for _ in range(3):
        answer = ask(talk, subject, b"unreachable")
        assert answer.headers and answer.headers["Nats-Service-Error-Code"] == code
    assert set(farm.children()) == before


def test_a_timeout_is_tried_again(talk: Any, farm: Farm) -> None:
    """Two attempts as `retry` says, then the failure; both are in the log."""
    ask(talk, "t.loop", b"", {"Nats-Msg-Id": "loop-1"})
    failed = farm.wait_log(message_id="loop-1", level="error")
    assert failed["attempt"] == 2 and failed["cause"] == "timeout"
    assert [line["attempt"] for line in farm.log(message_id="loop-1", level="info")] == [1]


def test_guest_log_lines(talk: Any, farm: Farm) -> None:
    """Marked as the guest's, with handler, function and message; newlines cannot make a second line."""
    assert ask(talk, "t.log", b"warn tree\x1b[31m is red", {"Nats-Msg-Id": "log-1"}).data == b"1"
    line = farm.wait_log(message_id="log-1")
    assert line["guest"] is True and line["function"] == "logging" and "tree" in line["message"]
    assert b"\x1b" not in farm.log_file.read_bytes()


def test_every_line_says_whose_it_is(talk: Any, farm: Farm) -> None:
    """Application, generation and process; a consumer's the handler; what became of a message, its id. One event is one
    line of at most 4,096 bytes."""
    ask(talk, "t.recurse", b"", {"Nats-Msg-Id": "whose-1"})
    farm.wait_log(message="message failed", message_id="whose-1")
    lines = farm.log()
    served = [line for line in lines if "generation" in line]
    assert all(line["process"] and line["app"] for line in served)
    assert [line for line in lines if line not in served] == lines[: len(lines) - len(served)]
    consumers = [line for line in served if line["process"].startswith("consumer")]
    assert consumers and all(line["process"].startswith(f"consumer {line['handler']}/") for line in consumers)
    assert all("message_id" in line for line in consumers if line.get("subject") or line.get("guest"))
    assert max(map(len, farm.log_file.read_bytes().split(b"\n"))) < 4096


def test_headers_that_a_function_sets(talk: Any) -> None:
    """They go out with the answer."""
    answer = ask(talk, "t.headers", b"X-A: 1\nX-B: two words")
    assert answer.data == b"2"
    assert answer.headers == {"X-A": "1", "X-B": "two words"}


def test_the_trace_goes_on(talk: Any) -> None:
    """Without tracing too: the trace of a message is its answer's, unless the function names another."""
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"}
    assert ask(talk, "t.headers", b"X-A: 1", {**trace, "Other": "o"}).headers == {"X-A": "1", **trace}
    assert ask(talk, "t.hello", b"you", trace).headers == trace
    own = f"00-{'c' * 32}-{'d' * 16}-01"
    assert ask(talk, "t.headers", f"Traceparent: {own}".encode(), trace).headers == {"Traceparent": own}


def test_a_filter_publishes_nothing(talk: Any) -> None:
    """A run without result and without error; an empty result is an empty message."""

    async def body(client: Any) -> list[bytes]:
        answers = await client.subscribe("filter.inbox")
        await client.publish("t.filter", b"drop this", reply="filter.inbox")
        await client.publish("t.filter", b"", reply="filter.inbox")
        await client.publish("t.filter", b"kept", reply="filter.inbox")
        return [(await answers.next_msg(timeout=10)).data for _ in range(2)]

    assert sorted(talk(body)) == [b"", b"kept"]


def test_isolation(talk: Any) -> None:
    """fresh: nothing of the message before is there; pooled with one instance: it is."""
    assert [ask(talk, "t.fresh", data).data for data in (b"one", b"two", b"three")] == [b"", b"", b""]
    assert [ask(talk, "t.pooled", data).data for data in (b"one", b"two", b"three")] == [b"", b"one", b"two"]


def test_respond_to(talk: Any) -> None:
    """Its subject gets the result, the reply subject nothing."""

    async def body(client: Any) -> tuple[bytes, int]:
        out = await client.subscribe("t.out")
        inbox = await client.subscribe("to.inbox")
        await client.publish("t.to", b"abc", reply="to.inbox")
        message = await out.next_msg(timeout=10)
        await client.request("t.hello", b"")
        return message.data, inbox.pending_msgs

    assert talk(body) == (b"ABC", 0)


def test_on_err_and_response(talk: Any) -> None:
    """409 goes on and its JSON is in the state; another code ends the message."""
    assert json.loads(ask(talk, "t.onerr", b"409 taken").data) == {"code": 409, "message": "taken"}
    refused = ask(talk, "t.onerr", b"410 gone")
    assert refused.headers and refused.headers["Nats-Service-Error-Code"] == "410"


def test_a_group(talk: Any) -> None:
    """Both run; `response` chooses."""
    assert ask(talk, "t.group", b"abc").data == b"ABC"


def test_a_grav_envelope_is_answered_in_kind(talk: Any) -> None:
    """What Atmo's library wraps is unwrapped, and the answer is wrapped and refers to it."""
    envelope = {
        "meta": {"uuid": "u-1", "parent_id": "", "response_to": "", "msg_type": "com.x", "timestamp": 1},
        "payload": {"data": base64.b64encode(b"abc").decode()},
    }
    answer = json.loads(ask(talk, "t.grav", json.dumps(envelope).encode()).data)
    assert answer["meta"]["response_to"] == "u-1"
    assert base64.b64decode(answer["payload"]["data"]) == b"ABC"
    assert ask(talk, "t.grav", b'{"plain": "json"}').data == b'{"PLAIN": "JSON"}'


def test_group_off_gives_every_worker_every_message(talk: Any) -> None:
    """Two workers, one message, two outputs."""

    async def body(client: Any) -> list[bytes]:
        out = await client.subscribe("t.off-out")
        await client.publish("t.off", b"x")
        return [(await out.next_msg(timeout=10)).data for _ in range(2)]

    assert talk(body) == [b"X", b"X"]


def test_a_result_over_max_payload_is_a_handler_error(start_nats: Callable[[str], NatsServer], tmp_path: Path) -> None:
    """The connection lives; the sender is told; the next message goes through."""
    server = start_nats(max_payload(2000))
    app = write_app(
        tmp_path / "app",
        nats_directive(server.url, "resource: t.hello\nsteps: [{fn: hello}]"),
        ("c", "hello"),
    )

    async def body() -> tuple[Msg, Msg]:
        client = await nats.connect(server.url)
        too_large = await client.request("t.hello", b"x" * 1999, timeout=10)
        small = await client.request("t.hello", b"x", timeout=10)
        await client.close()
        return too_large, small

    with Farm(app) as farm:
        before = farm.children()
        too_large, small = asyncio.run(body())
        assert too_large.data == b"" and too_large.headers is not None
        assert "payload" in too_large.headers["Nats-Service-Error"].lower()
        assert small.data == b"hello, x"
        assert farm.children() == before
        assert farm.wait_log(cause="publish")["level"] == "error"
