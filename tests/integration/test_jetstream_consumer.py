"""The durable consumer on a real server: made, changed, refused; gone and found again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from atmo_farm.errors import CannotStart
from atmo_farm.streams import jetstream, jetstream_binding, jetstream_pull
from tests.integration.jetstream_kit import Kit, in_kit, settling, vanish
from tests.servers.nats import NatsServer
from tests.streams import Handled, run

StartServer = Callable[[], NatsServer]


def fields(caplog: pytest.LogCaptureFixture, text: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.getMessage() == text]  # type: ignore[attr-defined]


def test_it_is_made_as_the_directive_says(start_jetstream: StartServer) -> None:
    """With the first start; the next one finds it."""

    async def body(kit: Kit) -> None:
        keys = {"deliver_policy": "new", "filter_subjects": ("in.a", "in.b")}
        for _ in range(2):
            stream = await kit.stream(ack_wait_s=1.5, window=7, resource="in.>", jetstream=keys)
            await stream.consume(Handled())
            config = (await kit.info())["config"]
            assert (config["durable_name"], config["ack_policy"], config["deliver_policy"]) == (
                "work",
                "explicit",
                "new",
            )
            assert (config["ack_wait"], config["max_ack_pending"], config["max_deliver"]) == (1_500_000_000, 7, -1)
            assert config["filter_subjects"] == ["in.a", "in.b"]
            await stream.close()

    in_kit(start_jetstream(), body)


def test_what_differs_is_changed_and_said(start_jetstream: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    """Ack wait, messages out, subjects and the limit of deliveries; what the Directive does not know stays."""

    async def body(kit: Kit) -> None:
        config = {"durable_name": "work", "ack_policy": "explicit", "ack_wait": 10**9, "max_deliver": 3,
                  "filter_subject": "in.b", "description": "mine"}  # fmt: skip
        await kit.api("CONSUMER.CREATE.IN.work", {"stream_name": "IN", "config": config})
        stream = await kit.stream(ack_wait_s=2.0, window=9)
        await stream.consume(Handled())
        now = (await kit.info())["config"]
        assert (now["ack_wait"], now["max_ack_pending"], now["max_deliver"]) == (2 * 10**9, 9, -1)
        assert now.get("filter_subject", now.get("filter_subjects")) in ("in.a", ["in.a"])
        assert now["description"] == "mine"

    with caplog.at_level(logging.INFO, "atmo_farm"):
        in_kit(start_jetstream(), body)
    (line,) = fields(caplog, "JetStream consumer updated")
    assert line["changes"] == (
        "ack_wait 1s → 2s, max_ack_pending 1000 → 9, max_deliver 3 → -1, filter_subjects in.b → in.a"
    )
    assert (line["consumer"], line["stream"]) == ("work", "IN")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"deliver_policy": "last"}, "deliver_policy is 'last', not 'all'"),
        ({"ack_policy": "none"}, "ack_policy is 'none', not 'explicit'"),
        ({"deliver_subject": "to.me"}, "deliver_subject is 'to.me'"),
        ({"backoff": [10**9, 2 * 10**9], "max_deliver": 5}, "backoff is"),
        ({"headers_only": True}, "headers_only is True"),
    ],
)
def test_what_cannot_be_changed_is_refused(start_jetstream: StartServer, given: dict[str, Any], why: str) -> None:
    """With what differs and what to do."""

    async def body(kit: Kit) -> None:
        config = {"durable_name": "work", "ack_policy": "explicit", "filter_subject": "in.a", **given}
        made = await kit.api("CONSUMER.CREATE.IN.work", {"stream_name": "IN", "config": config})
        assert "error" not in made
        stream = await kit.stream()
        with pytest.raises(CannotStart) as caught:
            await stream.consume(Handled())
        assert why in str(caught.value) and "nats consumer rm IN work" in str(caught.value)

    in_kit(start_jetstream(), body)


def test_no_stream(start_jetstream: StartServer) -> None:
    """CannotStart names the command that makes it."""

    async def body(kit: Kit) -> None:
        for keys, command in (({}, "nats stream add NAME"), ({"stream": "MINE"}, "nats stream add MINE")):
            stream = await kit.stream(resource="orders.*", jetstream=keys)
            with pytest.raises(CannotStart, match="worker") as caught:
                await stream.consume(Handled())
            assert f"{command} --subjects 'orders.*'" in str(caught.value)

    in_kit(start_jetstream(), body)


def test_no_jetstream(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without it: CannotStart, after some patience with one that begins."""
    monkeypatch.setattr(jetstream_binding, "JETSTREAM_PATIENCE_S", 0.2)

    async def body() -> None:
        kit = Kit(nats_server)
        stream = await kit.stream()
        with pytest.raises(CannotStart, match="the server has no JetStream for this user"):
            await stream.consume(Handled())
        await kit.close()

    run(body())


def test_a_user_who_may_not(start_nats: Callable[[str], NatsServer], tmp_path: Any) -> None:
    """CannotStart says what it may not publish on."""
    server = start_nats(
        f'jetstream {{ store_dir: "{tmp_path / "js"}" }}\n'
        'authorization { users = [ { user: "all", password: "all" }, { user: "few", password: "few", permissions: '
        '{ publish: { deny: "$JS.API.>" } } } ] }'
    )

    async def body() -> None:
        kit = Kit(server)
        stream = await kit.stream(login={"user": "few", "password": "few"}, jetstream={"stream": "IN"})
        with pytest.raises(CannotStart, match=r"may not publish on \$JS\.API\.CONSUMER\.INFO\.IN\.work"):
            await stream.consume(Handled())
        await kit.close()

    run(body())


def test_its_lag(start_jetstream: StartServer) -> None:
    """What nobody has got yet; what is in hand is none of it. Without the server, or once it is closed, not known."""
    server = start_jetstream()

    async def body(kit: Kit) -> None:
        await kit.publish(*(b"%d" % number for number in range(10)))
        stream = await kit.stream(window=4)
        await stream.consume(handled := Handled())
        await handled.payloads(4)
        assert await stream.lag() == {0: 10 - len(handled.messages)}
        for message in handled.messages[:4]:
            stream.ack(message)
        await handled.payloads(8)
        assert await stream.lag() == {0: 10 - len(handled.messages)}
        server.kill()
        while kit.client.is_connected:
            await asyncio.sleep(0.01)
        assert await stream.lag() == {}
        await stream.close()
        assert await stream.lag() == {}

    in_kit(server, body)


def test_requests_end_and_are_made_again(start_jetstream: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request lives for a while; messages come before and after, and never is more asked for than there is room."""
    monkeypatch.setattr(jetstream_pull, "EXPIRES_S", 0.3)

    async def body(kit: Kit) -> None:
        stream, handled = await kit.stream(max_in_flight=8), Handled()
        await stream.consume(settling(stream, handled))
        for number in range(4):
            await kit.publish(*(b"%d" % number,) * 20)
            await handled.payloads(20 * (number + 1))
            await asyncio.sleep(0.4)
            assert stream._pull.asked <= 10
        assert kit.events.told == []
        await kit.until_info(lambda info: info["num_ack_pending"] == 0)
        assert len(handled.messages) == 80

    in_kit(start_jetstream(), body)


def test_a_limit_on_requests(start_jetstream: StartServer) -> None:
    """The consumer's own bounds are kept."""

    async def body(kit: Kit) -> None:
        config = {"durable_name": "work", "ack_policy": "explicit", "filter_subject": "in.a", "max_batch": 3,
                  "max_expires": 10**9, "max_bytes": 100_000}  # fmt: skip
        await kit.api("CONSUMER.CREATE.IN.work", {"stream_name": "IN", "config": config})
        stream, handled = await kit.stream(), Handled()
        await stream.consume(settling(stream, handled))
        await kit.publish(*(b"x",) * 50)
        await handled.payloads(50)
        assert kit.events.told == []

    in_kit(start_jetstream(), body)


def test_no_place_for_a_request(
    start_jetstream: StartServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have all places of the consumer's `max_waiting`: asked again at a slow pace, until there is one."""
    monkeypatch.setattr(jetstream_pull, "HEARTBEAT_S", 1.0)

    async def body(kit: Kit) -> None:
        config = {"durable_name": "work", "ack_policy": "explicit", "filter_subject": "in.a", "max_waiting": 1}
        await kit.api("CONSUMER.CREATE.IN.work", {"stream_name": "IN", "config": config})
        other = await kit.client.subscribe("other.inbox")
        request = b'{"batch":1,"expires":1000000000}'
        await kit.client.publish("$JS.API.CONSUMER.MSG.NEXT.IN.work", request, reply="other.inbox")
        await kit.client.flush()
        stream, handled = await kit.stream(), Handled()
        await stream.consume(handled)
        assert (await other.next_msg(timeout=5)).data == b""
        await kit.publish(b"hi")
        assert await handled.payloads(1) == [b"hi"]

    with caplog.at_level(logging.INFO, "atmo_farm"):
        in_kit(start_jetstream(), body)
    assert 0 < len(fields(caplog, "consumer to be bound again")) < 12


def test_large_messages(start_jetstream: StartServer) -> None:
    """Many times what one request may bring in bytes: all come, and what waits in the process is bounded."""

    async def body(kit: Kit) -> None:
        big = b"x" * (1 << 20)
        for _ in range(60):
            await kit.publish(big)
        stream, shut = await kit.stream(max_in_flight=16), Handled(shut=True)
        await stream.consume(settling(stream, shut))
        await shut.payloads(1)
        await asyncio.sleep(0.3)
        assert stream._pending.size <= jetstream.MOST_BYTES + jetstream_pull.LEAST_BYTES
        shut.open()
        assert await shut.payloads(60) == [big] * 60

    in_kit(start_jetstream(), body)


def test_a_consumer_that_is_deleted(start_jetstream: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    """It is made again, and begins where its policy says; what was in hand cannot be settled any more."""

    async def body(kit: Kit) -> None:
        stream, handled = await kit.stream(), Handled()
        await stream.consume(handled)
        await kit.publish(b"1", b"2")
        await handled.payloads(2)
        assert await kit.js.delete_consumer("IN", "work")
        await handled.payloads(4)
        stream.ack(handled.messages[0])
        assert (await kit.info())["num_ack_pending"] == 2
        for message in handled.messages[2:]:
            stream.ack(message)
        await kit.until_info(lambda info: info["num_ack_pending"] == 0)

    with caplog.at_level(logging.INFO, "atmo_farm"):
        in_kit(start_jetstream(), body)
    assert len(fields(caplog, "the consumer was made anew: it begins where deliverPolicy says")) == 1


def test_a_stream_that_is_deleted(start_jetstream: StartServer) -> None:
    """Waited for, with the command; when it is there again its messages are handled, and no old number settles one."""

    async def body(kit: Kit) -> None:
        stream, handled = await kit.stream(), Handled()
        await stream.consume(handled)
        await kit.publish(b"old")
        await handled.payloads(1)
        await kit.js.delete_stream("IN")
        await kit.events.until(lambda: any("nats stream add" in told for told in kit.events.told))
        await kit.js.add_stream(name="IN", subjects=["in.>"])
        await kit.events.until_told("connected")
        await kit.publish(b"new")
        await handled.payloads(2)
        old, new = handled.messages
        assert old.origin.field("atmo-sequence") == new.origin.field("atmo-sequence") == "1"
        assert old.id != new.id and old.number != new.number
        stream.ack(old)
        await asyncio.sleep(0.1)
        assert (await kit.info())["num_ack_pending"] == 1
        stream.ack(new)
        await kit.until_info(lambda info: info["num_ack_pending"] == 0)

    in_kit(start_jetstream(), body)


def test_requests_that_went_silent(start_jetstream: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has forgotten them, and nothing says so: noticed by the heartbeats that do not come."""
    monkeypatch.setattr(jetstream_pull, "HEARTBEAT_S", 0.1)

    async def body(kit: Kit) -> None:
        stream, handled = await kit.stream(), Handled()
        await stream.consume(handled)
        while (subscription := stream._pull._subscription) is None:
            await asyncio.sleep(0)
        stream._client.send(b"UNSUB %d\r\n" % subscription._id)
        await stream._client.confirm()
        await kit.publish(b"hi")
        assert await handled.payloads(1) == [b"hi"]
        assert kit.events.told == ["connected"]

    in_kit(start_jetstream(), body)


def test_a_restarted_server(start_jetstream: StartServer) -> None:
    """What is in hand over a restart stays so: it is not handed over again, and its settlement counts."""

    async def body(kit: Kit) -> None:
        stream, handled = await kit.stream(ack_wait_s=0.6), Handled()
        await stream.consume(handled)
        await kit.publish(b"1", b"2")
        await handled.payloads(2)
        kit.server.stop()
        stream.ack(handled.messages[0])
        kit.server.start()
        await kit.events.until_told("connected")
        await asyncio.sleep(0.8)
        assert len(handled.messages) == 2
        stream.ack(handled.messages[1])
        await kit.until_info(lambda info: info["num_ack_pending"] == 0 and info["ack_floor"]["stream_seq"] == 2)
        await kit.until_connected()
        await kit.publish(b"3")
        assert await handled.payloads(3) == [b"1", b"2", b"3"]

    in_kit(start_jetstream(), body)


@pytest.mark.fault(row="broker half open (SIGSTOP)")
def test_a_stopped_server_is_noticed(start_jetstream: StartServer, amount: Callable[[int, int], int]) -> None:
    """It neither ends nor answers: waited for within 30 s at defaults, and gone on with when it runs again."""
    interval_s, noticed_s = amount(1, 50) / 10, amount(2, 30)

    async def body(kit: Kit) -> None:
        stream, handled = await kit.stream(ping_interval_s=interval_s), Handled()
        await stream.consume(settling(stream, handled))
        await kit.publish(b"1")
        await handled.payloads(1)
        kit.server.pause()
        async with asyncio.timeout(noticed_s):
            await kit.events.until(lambda: any(told.startswith("waiting") for told in kit.events.told))
        kit.server.resume()
        await kit.events.until_told("connected")
        await kit.publish(b"2")
        assert set(await handled.payloads(2)) == {b"1", b"2"}

    in_kit(start_jetstream(), body, 90)


def test_delivered_again_while_in_hand(start_jetstream: StartServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server did not hear in time that it is in progress: not handed over twice, and settled once."""

    async def body(kit: Kit) -> None:
        stream, handled = await kit.stream(ack_wait_s=0.3), Handled()
        monkeypatch.setattr(stream._in_hand, "say_progress", lambda: None)
        await stream.consume(handled)
        await kit.publish(b"hi")
        await handled.payloads(1)
        await kit.until_info(lambda info: info["delivered"]["consumer_seq"] >= 2)
        stream.ack(handled.messages[0])
        await kit.until_info(lambda info: info["num_ack_pending"] == 0)
        assert len(handled.messages) == 1

    in_kit(start_jetstream(), body)


def test_replayed_for_another(start_jetstream: StartServer) -> None:
    """Acknowledged and passed over; what is replayed for this handler, or for nobody, is handled."""

    async def body(kit: Kit) -> None:
        stream, handled = await kit.stream(), Handled()
        await stream.consume(settling(stream, handled))
        for whom in ("app.other", "app.worker"):
            await kit.js.publish("in.a", whom.encode(), headers={"Atmo-Replay-For": whom})
        await kit.publish(b"plain")
        assert await handled.payloads(2) == [b"app.worker", b"plain"]
        await kit.until_info(lambda info: info["num_ack_pending"] == 0 and info["ack_floor"]["stream_seq"] == 3)

    in_kit(start_jetstream(), body)


def test_settlements_that_the_server_did_not_hear(
    start_jetstream: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as are asked for come again, and are acknowledged again: the next ones are asked for all the same."""

    async def body(kit: Kit) -> None:
        stream, handled = await kit.stream(ack_wait_s=0.5, max_in_flight=8), Handled()
        with monkeypatch.context() as deaf:
            deaf.setattr(stream._in_hand, "_say", lambda *_: None)
            await stream.consume(settling(stream, handled))
            await kit.publish(*(b"%d" % number for number in range(10)))
            await handled.payloads(10)
        await kit.until_info(lambda info: info["num_ack_pending"] == 0)
        await kit.publish(b"10")
        assert len(await handled.payloads(11)) == 11

    in_kit(start_jetstream(), body, 10)


def test_few_places_for_requests(start_jetstream: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    """Fewer than there are workers: it is said, and what to do."""

    async def body(kit: Kit) -> None:
        config = {"durable_name": "work", "ack_policy": "explicit", "filter_subject": "in.a", "max_waiting": 2}
        await kit.api("CONSUMER.CREATE.IN.work", {"stream_name": "IN", "config": config})
        await (await kit.stream(workers=3)).consume(Handled())

    with caplog.at_level(logging.WARNING, "atmo_farm"):
        in_kit(start_jetstream(), body)
    (told,) = fields(caplog, "the consumer lets fewer requests wait than there are workers: some of them get nothing")
    assert (told["max_waiting"], told["workers"]) == (2, 3)


def test_a_message_larger_than_a_request_may_bring(
    start_jetstream: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The consumer's own bound: it is said, and asked for less and less often, not as fast as the server answers."""

    async def body(kit: Kit) -> None:
        config = {"durable_name": "work", "ack_policy": "explicit", "filter_subject": "in.a", "max_bytes": 1000}
        await kit.api("CONSUMER.CREATE.IN.work", {"stream_name": "IN", "config": config})
        stream, handled = await kit.stream(), Handled()
        await stream.consume(settling(stream, handled))
        await kit.publish(b"x" * 400, b"y" * 400, b"z" * 400, b"x" * 2000)
        await handled.payloads(3)
        await asyncio.sleep(1.0)

    with caplog.at_level(logging.WARNING, "atmo_farm"):
        in_kit(start_jetstream(), body)
    told = fields(caplog, "consumer to be bound again")
    assert told and told[0]["reason"].startswith("a message is larger than the consumer's max_bytes of 1000")
    assert len(told) <= 5


def test_bound_again_leaves_nothing(start_jetstream: StartServer) -> None:
    """However often: as many subscriptions as before."""

    async def body(kit: Kit) -> None:
        stream, handled = await kit.stream(), Handled()
        await stream.consume(settling(stream, handled))
        await kit.publish(b"0")
        await handled.payloads(1)
        before = len(stream._client.sinks)
        for number in range(1, 4):
            inbox = stream._pull._inbox
            stream._broken("for a test")
            while stream._pull._inbox in (inbox, b""):
                await asyncio.sleep(0.01)
            await kit.publish(b"%d" % number)
            await handled.payloads(number + 1)
        assert len(stream._client.sinks) <= before + 1

    in_kit(start_jetstream(), body)


ORDERED: dict[str, Any] = {"ordering": "partition", "max_in_flight": 8, "window": 8}


def test_order_over_a_kill(start_jetstream: StartServer) -> None:
    """What the killed process had comes first, in the stream's order, though the server delivers it last."""

    async def body(kit: Kit) -> None:
        payloads = [b"%d" % number for number in range(30)]
        await kit.publish(*payloads[:6])
        first, shut = await kit.stream(ack_wait_s=0.7, **ORDERED), Handled(shut=True)
        await first.consume(shut)
        await shut.payloads(1)
        await kit.until_info(lambda info: info["num_ack_pending"] == 6)
        first.ack(shut.messages[0])
        await kit.until_info(lambda info: info["num_ack_pending"] == 5)
        vanish(first)
        second, handled = await kit.stream(ack_wait_s=0.7, **ORDERED), Handled()
        await second.consume(settling(second, handled))
        await kit.publish(*payloads[6:])
        assert await handled.payloads(29) == payloads[1:]

    in_kit(start_jetstream(), body)


def test_order_over_a_handover(start_jetstream: StartServer) -> None:
    """The next process stands by until the one before has stopped asking and settled what it had."""

    async def body(kit: Kit) -> None:
        payloads = [b"%d" % number for number in range(30)]
        first, shut = await kit.stream(**ORDERED), Handled(shut=True)
        await first.consume(shut)
        await kit.publish(*payloads[:20])
        await shut.payloads(1)
        second, handled = await kit.stream(**ORDERED), Handled()
        await second.consume(settling(second, handled))
        await asyncio.sleep(0.2)
        assert handled.messages == []
        stopping = asyncio.ensure_future(first.stop())
        await asyncio.sleep(0.2)
        assert handled.messages == []
        shut.open()
        await stopping
        first.ack(shut.messages[0])
        await first.close()
        await kit.publish(*payloads[20:])
        assert await handled.payloads(29) == payloads[1:]

    in_kit(start_jetstream(), body)


def test_order_over_a_reconnect(start_jetstream: StartServer) -> None:
    """In hand and to come, over a restart of the server: each once, in order."""

    async def body(kit: Kit) -> None:
        payloads = [b"%d" % number for number in range(40)]
        stream, handled = await kit.stream(ack_wait_s=1.0, **ORDERED), Handled()
        late: list[Any] = []

        async def handle(message: Any) -> None:
            await handled(message)
            late.append(message)
            asyncio.get_running_loop().call_later(0.02, lambda: stream.ack(late.pop(0)))

        await stream.consume(handle)
        await kit.publish(*payloads)
        await handled.payloads(10)
        kit.server.stop()
        kit.server.start()
        assert await handled.payloads(40) == payloads

    in_kit(start_jetstream(), body)


def test_order_of_two_after_a_restart(start_jetstream: StartServer) -> None:
    """Both find nobody at the same moment: one of them serves, and the other one stands by again."""

    async def body(kit: Kit) -> None:
        handled = Handled()
        streams = [await kit.stream(ack_wait_s=1.0, **ORDERED) for _ in range(2)]
        for stream in streams:
            await stream.consume(settling(stream, handled))
        await kit.publish(b"0")
        await handled.payloads(1)
        kit.server.stop()
        kit.server.start()
        await kit.events.until_told("connected")
        await kit.until_connected()
        await kit.publish(b"1")
        await handled.payloads(2)
        alone = 0
        while alone < 5:  # in a row: one may have begun before the other
            await asyncio.sleep(0.05)
            asking = sum(bool(stream._pull._inbox) for stream in streams)
            alone = alone + 1 if asking == 1 else 0

    in_kit(start_jetstream(), body, 10)
