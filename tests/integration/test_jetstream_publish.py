"""Outputs of durable handlers on a real server: safe before their message is acknowledged, and once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atmo_farm.directive.model import RespondTo
from atmo_farm.errors import PublishError
from atmo_farm.streams import jetstream_acks, jetstream_publish
from atmo_farm.streams.base import Output
from tests.integration.jetstream_kit import Kit, in_kit
from tests.servers.nats import NatsServer
from tests.streams import Handled, run

StartServer = Callable[[], NatsServer]
ANSWER: dict[str, Any] = {"respond_to": RespondTo("nats", "out.a")}


def lines(caplog: pytest.LogCaptureFixture, start: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(start)]


async def kept(kit: Kit) -> list[tuple[bytes, dict[str, str]]]:
    last = (await kit.js.stream_info("OUT")).state.last_seq
    found = [await kit.js.get_msg("OUT", number) for number in range(1, last + 1)]
    return [(message.data or b"", message.headers or {}) for message in found]


async def refused(stream: Any, output: Output) -> PublishError:
    with pytest.raises(PublishError) as caught:
        await stream.publish(output)
    return caught.value


def test_the_same_id_is_kept_once(start_jetstream: StartServer) -> None:
    """By the output's id; an id that the guest has set itself wins, and other headers go out beside it."""

    async def body(kit: Kit) -> None:
        await kit.js.add_stream(name="OUT", subjects=["out.>"])
        stream = await kit.stream(**ANSWER)
        for _ in range(2):
            await stream.publish(Output("out.a", b"1", {}, id="one"))
            await stream.publish(Output("out.a", b"2", {"X-Of": "guest"}, id="two"))
        await stream.publish(Output("out.a", b"3", {"nats-msg-id": "mine"}, id="three"))
        await stream.publish(Output("out.a", b"4", {}, id="mine"))
        found = await kept(kit)
        assert [data for data, _ in found] == [b"1", b"2", b"3"]
        assert found[1][1] == {"Nats-Msg-Id": "two", "X-Of": "guest"}

    in_kit(start_jetstream(), body)


def test_what_a_stream_refuses(start_jetstream: StartServer) -> None:
    """For now where it is full, for good where the message can never be kept; both at once."""

    async def body(kit: Kit) -> None:
        await kit.js.add_stream(name="OUT", subjects=["out.>"], max_msgs=1, max_msg_size=100, discard="new")
        stream = await kit.stream(**ANSWER)
        large = await refused(stream, Output("out.a", b"x" * 101, {}, id="1"))
        assert not large.transient and "message size exceeds maximum allowed" in str(large)
        other = await refused(stream, Output("out.a", b"", {"Nats-Expected-Stream": "OTHER"}, id="2"))
        assert not other.transient and "expected stream does not match" in str(other)
        await stream.publish(Output("out.a", b"1", {}, id="3"))
        full = await refused(stream, Output("out.a", b"2", {}, id="4"))
        assert full.transient and "the stream OUT refuses it: maximum messages exceeded" in str(full)
        await kit.js.purge_stream("OUT")
        await stream.publish(Output("out.a", b"2", {}, id="4"))

    in_kit(start_jetstream(), body)


def test_no_output_stream(start_jetstream: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    """By core NATS, said once; the server has it when the future is done."""

    async def body(kit: Kit) -> None:
        heard = await kit.client.subscribe("out.a")
        await kit.client.flush()
        stream = await kit.stream(**ANSWER)
        await stream.consume(Handled())
        await asyncio.gather(*(stream.publish(Output("out.a", b"%d" % n, {}, id=f"{n}")) for n in range(100)))
        await kit.client.flush()
        assert [(await heard.next_msg()).data for _ in range(100)] == [b"%d" % n for n in range(100)]

    with caplog.at_level(logging.INFO, "atmo_farm"):
        in_kit(start_jetstream(), body)
    assert len(lines(caplog, "no known stream keeps the outputs")) == 1


def test_an_output_stream_that_comes_and_goes(
    start_jetstream: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Made later it is found; deleted, the output fails for now and the next ones go out by core NATS."""
    monkeypatch.setattr(jetstream_publish, "LOOK_AGAIN_S", 0.0)

    async def body(kit: Kit) -> None:
        stream = await kit.stream(**ANSWER)
        await stream.publish(Output("out.a", b"0", {}, id="0"))
        await kit.js.add_stream(name="OUT", subjects=["out.>"])
        while not lines(caplog, "outputs go into a stream"):
            await stream.publish(Output("out.a", b"1", {}, id="1"))
            await asyncio.sleep(0.01)
        await stream.publish(Output("out.a", b"2", {}, id="2"))
        assert [data for data, _ in await kept(kit)] == [b"1", b"2"]
        await kit.js.delete_stream("OUT")
        gone = await refused(stream, Output("out.a", b"3", {}, id="3"))
        assert gone.transient and "no stream keeps out.a now" in str(gone)
        while len(lines(caplog, "no known stream keeps the outputs")) < 2:
            await asyncio.sleep(0.01)
        await stream.publish(Output("out.a", b"4", {}, id="4"))

    with caplog.at_level(logging.INFO, "atmo_farm"):
        in_kit(start_jetstream(), body)


@pytest.mark.parametrize("output", ["stream", "core"])
def test_output_says_how(start_jetstream: StartServer, output: str) -> None:
    """Whatever streams there are: `stream` fails where there is none, `core` waits for no stream."""

    async def body(kit: Kit) -> None:
        stream = await kit.stream(output=output, **ANSWER)
        if output == "stream":
            assert (await refused(stream, Output("out.a", b"1", {}, id="1"))).transient
            await kit.js.add_stream(name="OUT", subjects=["out.>"])
        await stream.publish(Output("out.a", b"2", {}, id="2"))

    in_kit(start_jetstream(), body)


def test_no_answer(start_jetstream: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody listens who is no stream: the output fails for now, when its time is over; so does one whose answer is
    none of a stream's."""

    async def body(kit: Kit) -> None:
        stream = await kit.stream(output="stream", **ANSWER)
        silent = await kit.client.subscribe("out.a")
        await kit.client.flush()
        with monkeypatch.context() as impatient:
            impatient.setattr(jetstream_acks, "ANSWER_S", 0.2)
            late = await refused(stream, Output("out.a", b"", {}, id="1"))
        assert late.transient and "no acknowledgement for out.a within 0.2 s" in str(late)
        await silent.unsubscribe()

        async def answer(message: Any) -> None:
            await message.respond(b"hello")

        await kit.client.subscribe("out.a", cb=answer)
        await kit.client.flush()
        wrong = await refused(stream, Output("out.a", b"", {}, id="2"))
        assert wrong.transient and "is no stream" in str(wrong)

    in_kit(start_jetstream(), body)


@pytest.mark.parametrize("output", ["stream", "core"])
def test_the_connection_breaks(start_jetstream: StartServer, output: str) -> None:
    """Whoever waits is told at once; without a connection nothing is taken."""

    async def body(kit: Kit) -> None:
        await kit.js.add_stream(name="OUT", subjects=["out.>"])
        stream = await kit.stream(output=output, **ANSWER)
        await stream.consume(Handled())
        await stream.publish(Output("out.a", b"0", {}, id="0"))
        kit.server.pause()
        waiting = stream.publish(Output("out.a", b"1", {}, id="1"))
        kit.server.kill()
        with pytest.raises(PublishError, match="the connection broke before") as caught:
            await waiting
        assert caught.value.transient
        assert "out of reach" in str(await refused(stream, Output("out.a", b"2", {}, id="2")))
        kit.server.start()
        await kit.events.until_told("connected")
        await kit.until_connected()
        await stream.publish(Output("out.a", b"2", {}, id="2"))

    in_kit(start_jetstream(), body)


def test_a_subject_that_is_not_permitted(start_nats: Callable[[str], NatsServer], tmp_path: Path) -> None:
    """The server's word comes at once, not when the time is over."""
    server = start_nats(
        f'jetstream {{ store_dir: "{tmp_path / "js"}" }}\n'
        'authorization { users = [ { user: "few", password: "few", permissions: { publish: { deny: "Out.A" } } } ] }'
    )

    async def body() -> None:
        kit = Kit(server)
        stream = await kit.stream(login={"user": "few", "password": "few"}, output="stream")
        async with asyncio.timeout(2):
            assert "may not publish on Out.A" in str(await refused(stream, Output("Out.A", b"", {}, id="1")))
        await kit.close()

    run(body())


def test_acknowledged_after_its_output(start_jetstream: StartServer) -> None:
    """While the output's stream takes nothing, its message stays unsettled."""

    async def body(kit: Kit) -> None:
        await kit.js.add_stream(name="OUT", subjects=["out.>"], max_msgs=1, discard="new")
        await kit.js.publish("out.x", b"full")
        stream, handled = await kit.stream(**ANSWER), Handled()

        async def handle(message: Any) -> None:
            await handled(message)
            try:
                await stream.publish(Output("out.a", b"o", {}, message, f"{message.id}.out"))
                stream.ack(message)
            except PublishError:
                stream.give_back(message, 0.1)

        await stream.consume(handle)
        await kit.publish(b"hi")
        await handled.payloads(3)
        assert (await kit.info())["num_ack_pending"] == 1
        await kit.js.purge_stream("OUT")
        await kit.until_info(lambda info: info["num_ack_pending"] == 0)
        assert (await kit.js.stream_info("OUT")).state.messages == 1

    in_kit(start_jetstream(), body)
