"""What NatsStream does where a server behaves in a way that a test must choose: the server is scripted."""

from __future__ import annotations

import asyncio
import logging

import pytest

from atmo_farm.errors import CannotStart, PublishError
from atmo_farm.streams import nats_link
from atmo_farm.streams.base import Output
from atmo_farm.streams.nats import NatsStream
from tests.streams import INFO, Events, Handled, Peer, ScriptedServer, nats_connection, run, scripted_server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, for a scripted server is quick."""
    monkeypatch.setattr(nats_link, "RECONNECT_WAIT_S", 0.01)
    monkeypatch.setattr(nats_link, "FLUSH_TIMEOUT_S", 0.3)


def stream_of(server: ScriptedServer, events: Events, **keys: object) -> NatsStream:
    connection = nats_connection(server.url)
    return NatsStream(connection, "a.b", group="g", client_name="test", events=events, **keys)  # type: ignore[arg-type]


async def consuming(server: ScriptedServer, events: Events, handled: Handled) -> tuple[NatsStream, Peer]:
    stream = stream_of(server, events)
    await stream.open()
    await stream.consume(handled)
    return stream, server.peers[-1]


def test_consuming_begins_with_the_servers_word() -> None:
    """`consume` returns after the PONG that follows SUB."""

    async def body() -> None:
        async with scripted_server() as server:
            stream = stream_of(server, Events())
            await stream.open()
            peer = await server.peer(0)
            peer.answers_pings = False
            consume = asyncio.ensure_future(stream.consume(Handled()))
            await peer.until(lambda: peer.lines[-1:] == [b"PING"] and peer.got(b"SUB a.b g") == 1)
            assert not consume.done()
            peer.send(b"PONG\r\n")
            await consume
            await stream.close()

    run(body())


@pytest.mark.parametrize("breaks", ["before", "meanwhile"])
def test_a_connection_that_breaks_before_the_subscription_stands(breaks: str) -> None:
    """`consume` goes on until a server has confirmed it: the process is not ready before."""

    async def body() -> None:
        async with scripted_server() as server:
            events, handled = Events(), Handled()
            stream = stream_of(server, events)
            await stream.open()
            first = await server.peer(0)
            first.answers_pings = False
            refused = asyncio.Event()

            async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                refused.set()
                writer.close()

            server.serve_next = refuse
            if breaks == "before":
                first.hang_up()
                await refused.wait()
            consume = asyncio.ensure_future(stream.consume(handled))
            if breaks == "meanwhile":
                await first.until(lambda: first.got(b"SUB") == 1)
                first.hang_up()
                await refused.wait()
            await asyncio.wait({consume}, timeout=0.1)
            assert not consume.done()
            server.serve_next = None
            await consume
            peer = await server.peer(1)
            peer.send(b"MSG a.b 1 2\r\nhi\r\n")
            assert await handled.payloads(1) == [b"hi"]
            assert events.told[0].startswith("waiting") and events.told[-1] == "connected"
            await stream.close()

    run(body())


def test_a_subscription_that_is_refused_at_the_start() -> None:
    """CannotStart, with the server's words and the subject."""

    async def body() -> None:
        async with scripted_server() as server:
            stream = stream_of(server, Events())
            await stream.open()
            peer = await server.peer(0)
            peer.answers_pings = False
            consume = asyncio.ensure_future(stream.consume(Handled()))
            await peer.until(lambda: peer.got(b"SUB") == 1 and peer.lines[-1:] == [b"PING"])
            peer.send(b"-ERR 'Permissions Violation for Subscription to \"a.b\"'\r\nPONG\r\n")
            with pytest.raises(CannotStart, match=r"nats default: permissions violation .*may not subscribe to a\.b"):
                await consume
            await stream.close()

    run(body())


def test_a_subscription_that_is_taken_away() -> None:
    """Told as the end: a process that only seems to serve must not go on."""

    async def body() -> list[str]:
        async with scripted_server() as server:
            events = Events()
            stream, peer = await consuming(server, events, Handled())
            peer.send(b"-ERR 'Permissions Violation for Subscription to \"a.b\"'\r\n" * 2)
            await events.until(lambda: bool(events.told))
            await stream.close()
            return events.told

    (told,) = run(body())
    assert told.startswith("closed: permissions violation") and told.endswith("may not subscribe to a.b")


def test_an_outage_is_told_once() -> None:
    """Each reason once, however often it comes; then that it is over; the next outage begins anew."""

    async def body() -> list[str]:
        async with scripted_server() as server:
            events = Events()
            stream, peer = await consuming(server, events, Handled())
            attempts = 0

            async def fail_in_turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal attempts
                attempts += 1
                if attempts % 2:
                    writer.write(INFO)
                    await reader.readuntil(b"PING\r\n")
                    writer.write(b"-ERR 'Authorization Violation'\r\n")
                writer.close()
                if attempts == 12:
                    server.serve_next = None

            for number in (1, 2):
                attempts = 0
                server.serve_next = fail_in_turn
                peer.hang_up()
                await events.until_told("connected", times=number)
                peer = server.peers[-1]
            await stream.close()
            return events.told

    told = run(body())
    first = told.index("connected")
    for outage in (told[:first], told[first + 1 : -1]):
        assert len(set(outage)) == len(outage) == 3 and "waiting: Authorization Violation" in outage, told


def test_the_first_reason_is_why_it_ended() -> None:
    """The server's last words, not that the connection is lost."""

    async def body() -> list[str]:
        async with scripted_server() as server:
            events = Events()
            stream, peer = await consuming(server, events, Handled())
            peer.send(b"-ERR 'Maximum Payload Violation'\r\n")
            await events.until_told("connected")
            await stream.close()
            return events.told

    assert run(body()) == ["waiting: maximum payload violation", "connected"]


def test_errors_that_do_not_end_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """A publish that is not permitted is a warning, but not one for each message."""

    async def body() -> None:
        async with scripted_server() as server:
            events, handled = Events(), Handled()
            stream, peer = await consuming(server, events, handled)
            peer.send(b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n" * 1000 + b"MSG a.b 1 2\r\nhi\r\n")
            await handled.payloads(1)
            assert events.told == []
            await stream.close()

    with caplog.at_level(logging.DEBUG, "atmo_farm"):
        run(body())
    lines = [record for record in caplog.records if record.getMessage() == "NATS error"]
    assert 1 <= len(lines) <= 12
    assert lines[0].fields["reason"] == 'permissions violation for publish to "x"'  # type: ignore[attr-defined]


def test_a_reply_subject_of_any_bytes() -> None:
    """NATS does not ask for UTF-8: the answer goes to just those bytes, also when it is an error."""

    async def body() -> None:
        async with scripted_server() as server:
            handled = Handled()
            stream, peer = await consuming(server, Events(), handled)
            peer.send(b"MSG a.b 1 in\xff\xfebox 2\r\nhi\r\n")
            await handled.payloads(1)
            (message,) = handled.messages
            await stream.publish(Output(message.reply, b"HI", {}, message))
            await stream.answer_error(message, 500, "failed")
            await peer.until(lambda: peer.got(b"HPUB in\xff\xfebox ") == 1)
            assert peer.got(b"PUB in\xff\xfebox 2") == 1
            await stream.close()

    run(body())


@pytest.mark.parametrize("bounds", [{"max_pending": 1}, {"max_pending_bytes": 1}])
def test_drops_of_a_chunk_are_told_together(bounds: dict[str, int]) -> None:
    """One call for all that one read from the socket brought."""

    async def body() -> list[int]:
        async with scripted_server() as server:
            events, handled = Events(), Handled(shut=True)
            stream = stream_of(server, events, **bounds)
            await stream.open()
            await stream.consume(handled)
            server.peers[0].send(b"MSG a.b 1 2\r\nhi\r\n" * 500)
            await events.until(lambda: sum(events.drops) >= 499)
            await stream.close()
            return events.drops

    assert run(body()) == [499]


def test_a_server_that_goes_silent() -> None:
    """Its connection stands, but nothing comes: after three ping intervals the stream looks for another one."""

    async def body() -> list[str]:
        async with scripted_server() as server:
            events = Events()
            stream = stream_of(server, events, ping_interval_s=0.05)
            await stream.open()
            await stream.consume(Handled())
            server.peers[0].answers_pings = False
            await events.until_told("connected")
            await stream.close()
            return events.told

    assert run(body()) == ["waiting: the server does not answer pings", "connected"]


def test_progress_is_watched_and_not_only_state() -> None:
    """nats-py's own pings have stopped and its reader is gone, and it still calls itself connected: noticed."""

    async def body() -> list[str]:
        async with scripted_server() as server:
            events, handled = Events(), Handled()
            stream = stream_of(server, events, ping_interval_s=0.05)
            await stream.open()
            await stream.consume(handled)
            for name in ("_ping_interval_task", "_reading_task"):
                getattr(stream._client, name).cancel()
            await events.until_told("connected")
            server.peers[-1].send(b"MSG a.b 1 2\r\nhi\r\n")
            assert await handled.payloads(1) == [b"hi"]
            await stream.close()
            return events.told

    assert run(body()) == ["waiting: the server does not answer pings", "connected"]


@pytest.mark.parametrize("at", ["reconnecting", "connecting"])
def test_attempts_that_have_ended_for_good(at: str) -> None:
    """Should nats-py give up, in the middle of an attempt or between two, the process ends and is replaced."""

    async def body() -> list[str]:
        async with scripted_server() as server:
            events = Events()
            stream = stream_of(server, events, ping_interval_s=0.05)
            await stream.open()
            await stream.consume(Handled())
            held = asyncio.Event()

            async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                held.set()
                if at == "connecting":
                    await reader.read()
                writer.close()

            server.serve_next = hold
            server.peers[0].hang_up()
            await held.wait()
            task = stream._client._reconnection_task
            assert task is not None
            while not task.done():
                task.cancel()
                await asyncio.sleep(0.001)
            await events.until(lambda: events.told[-1].startswith("closed"))
            await stream.close()
            return events.told

    assert run(body())[-1] == "closed: the client gave up reconnecting"


def test_open_can_be_given_up_at_any_moment() -> None:
    """Cancelled after so many turns of the loop, while logins fail as fast as they can: it always ends, with all."""

    async def body() -> None:
        async with scripted_server() as server:

            async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(b'INFO {"server_id":"x","version":"2.11.0","auth_required":true}\r\n')
                await reader.readuntil(b"PING\r\n")
                writer.write(b"-ERR 'Authorization Violation'\r\n")
                writer.close()

            server.serve_next = refuse
            for turns in range(120):
                before = asyncio.all_tasks()
                stream = stream_of(server, Events())
                opening = asyncio.ensure_future(stream.open())
                for _ in range(turns):
                    await asyncio.sleep(0)
                opening.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(opening, 5)
                await stream.close()
                async with asyncio.timeout(5):
                    while [task for task in asyncio.all_tasks() - before if "serve" not in str(task)]:
                        await asyncio.sleep(0.001)

    run(body(), 100)


def test_close_before_a_connection() -> None:
    """In whatever state it is: never opened, still opening."""

    async def body() -> None:
        async with scripted_server() as server:
            never = stream_of(server, Events())
            await never.stop()
            await never.close()

    run(body())


def test_close_with_a_peer_that_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It returns nevertheless."""

    async def body() -> None:
        async with scripted_server() as server:
            stream, peer = await consuming(server, Events(), Handled())
            peer.answers_pings = False
            async with asyncio.timeout(3):
                await stream.close()
            await peer.gone.wait()

    run(body())


def test_outputs_that_were_never_sent_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """The farm ends while the broker is out: how many bytes are lost with it, and why."""

    async def body() -> None:
        async with scripted_server() as server:
            events = Events()
            stream, peer = await consuming(server, events, Handled())

            async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.close()

            server.serve_next = refuse
            peer.hang_up()
            await events.until(lambda: bool(events.told))
            await stream.publish(Output("out", b"x" * 1000, {}))
            await stream.close()
            assert [told for told in events.told if told.startswith("closed")] == []
            with pytest.raises(PublishError, match="out of reach"):
                await stream.publish(Output("out", b"x", {}))

    with caplog.at_level(logging.DEBUG, "atmo_farm"):
        run(body())
    (line,) = [record.fields for record in caplog.records if record.getMessage() == "outputs not sent"]  # type: ignore[attr-defined]
    assert line["bytes"] > 1000 and line["connection"] == "nats default" and line["reason"]
