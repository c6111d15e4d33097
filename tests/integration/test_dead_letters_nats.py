"""Dead letters on real nats-servers: kept, read, sent again; servers and users that do not have or may not do it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from atmo_farm.delivery.letters import Letter
from atmo_farm.directive.model import DeadLetter
from atmo_farm.errors import PublishError, TimedOut
from atmo_farm.streams import nats_dead
from atmo_farm.streams.base import Kept, Output
from atmo_farm.streams.nats import NatsStream
from atmo_farm.streams.nats_letters import NatsLetters
from tests.servers.nats import NatsServer, jetstream, max_payload
from tests.streams import Events, nats_connection, run

ODD = (("X-Way", "a"), ("x-way", "b"), ("X-Way", "c"), ("Schlüssel mit Blank", "Wört\udcff"), ("Empty", ""))
BINARY = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """With JetStream; each test has a resource of its own."""
    folder = tmp_path_factory.mktemp("dead")
    running = NatsServer(folder, jetstream(folder / "js"))
    running.start()
    yield running
    running.stop()


@contextlib.asynccontextmanager
async def stream(
    server: NatsServer, resource: str, max_age_s: float | None = None, **keys: Any
) -> AsyncIterator[NatsStream]:
    """A handler's stream that keeps its dead letters there."""
    made = NatsStream(
        nats_connection(server.url, **keys),
        "x",
        group=None,
        client_name="test",
        events=Events(),
        dead_letter=DeadLetter(resource, max_age_s),
    )
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def letters(server: NatsServer, resource: str) -> NatsLetters:
    return NatsLetters(nats_connection(server.url), resource, "test/dlq")


@contextlib.asynccontextmanager
async def client(server: NatsServer) -> AsyncIterator[Client]:
    """Somebody else."""
    other = Client()
    await other.connect(server.url)
    try:
        yield other
    finally:
        await other.close()


def letter(resource: str, key: str, data: bytes = b"data") -> Output:
    return Output(resource, data, {"Atmo-Dead-Id": key, "Atmo-Dead-Origin": "in"}, None, key, None, ODD)


async def all_of(place: NatsLetters, since_s: float | None = None) -> list[Kept]:
    return [kept async for kept in place.letters(since_s)]


def test_a_letter_comes_back_as_it_was(server: NatsServer) -> None:
    """Payload and headers byte for byte; its stream is made, of limits, in files, read directly, with its own ages."""
    resource = "atmo.dead.odd.h"

    async def body() -> None:
        async with stream(server, resource) as handler, letters(server, resource) as before:
            assert await all_of(before) == []
            await handler.bury(letter(resource, "k1", BINARY))
            async with letters(server, resource) as place, letters(server, "atmo.dead.odd.other") as others:
                (listed,) = await all_of(place)
                assert (listed.key, listed.size, listed.data) == ("k1", len(BINARY), b"")
                loaded = await place.load(listed.id)
                assert loaded is not None
                assert loaded.data == BINARY
                assert Letter(loaded).original == ODD
                assert loaded.headers == listed.headers
                assert loaded.kept_s == pytest.approx(listed.kept_s)
                assert await all_of(others) == []
                assert await others.load(listed.id) is None, "it is another handler's"
                assert await place.load("999999") is None
                assert await place.load("9" * 5000) is None
                assert await place.remove(listed.id)
                assert not await place.remove(listed.id)
                assert await all_of(place) == []
        async with client(server) as other:
            config = (await other.jetstream().stream_info("ATMO_DEAD")).config
            assert config.subjects == ["atmo.dead.>"]
            assert (config.retention, config.storage) == ("limits", "file")
            assert config.allow_direct and config.allow_msg_ttl and not config.max_age

    run(body())


@pytest.mark.parametrize("status", ["404", "409", "OK"])
@pytest.mark.parametrize("is_direct", [True, False])
def test_what_somebody_else_put_there_hides_no_letter(server: NatsServer, status: str, is_direct: bool) -> None:
    """Headers that look like an answer of the server's, a size that is none: it is a letter like others."""
    name = f"FOREIGN{status}{is_direct}"
    resource = f"{'atmo.' * is_direct}dead.{name}"
    block = f"NATS/1.0 {status}\r\nNats-Msg-Size: {'9' * 5000}\r\n\r\n".encode()

    async def body() -> None:
        async with client(server) as other:
            if not is_direct:
                await other.jetstream().add_stream(name=name, subjects=[resource], allow_direct=False)
        async with stream(server, resource) as handler, letters(server, resource) as place:
            await handler.bury(letter(resource, f"first{name}"))
            place._requests.send(resource, "", b"data", block)
            await place._requests.confirm()
            await handler.bury(letter(resource, f"last{name}"))
        async with letters(server, resource) as place:
            found = await all_of(place)
            assert [kept.key for kept in found] == [f"first{name}", "", f"last{name}"]
            loaded = await place.load(found[1].id)
            assert loaded is not None and loaded.data == b"data"

    run(body())


def test_a_letter_twice_is_there_once(server: NatsServer) -> None:
    """A message that is delivered again after its letter was kept makes no second one."""
    resource = "atmo.dead.twice.h"

    async def body() -> None:
        async with stream(server, resource) as one, stream(server, resource) as two:
            await one.bury(letter(resource, "same"))
            await two.bury(letter(resource, "same"))
            async with letters(server, resource) as place:
                assert len(await all_of(place)) == 1

    run(body())


def test_its_age_is_the_handlers_own(server: NatsServer) -> None:
    """`maxAge` goes with each letter: one handler's are gone when another's are there."""
    short, long = "atmo.dead.age.short", "atmo.dead.age.long"

    async def body() -> None:
        async with stream(server, short, 1.0) as ages, stream(server, long) as stays:
            await ages.bury(letter(short, "a1"))
            await stays.bury(letter(long, "a2"))
            async with letters(server, short) as gone, letters(server, long) as there:
                assert len(await all_of(gone)) == 1
                while await all_of(gone):
                    await asyncio.sleep(0.05)
                assert len(await all_of(there)) == 1

    run(body())


def test_a_stream_that_cannot_be_read_directly(server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    """One of the user's own, for a resource of its own: letters go there; an age that it does not keep is told."""
    resource = "own.dead"

    async def body() -> None:
        async with client(server) as other:
            await other.jetstream().add_stream(name="OWN", subjects=[resource], allow_direct=False)
        async with stream(server, resource, 60.0) as handler, letters(server, resource) as place:
            await handler.bury(letter(resource, "k1", BINARY))
            (listed,) = await all_of(place)
            loaded = await place.load(listed.id)
            assert loaded is not None and loaded.data == BINARY
            assert Letter(loaded).original == ODD
            assert await place.load("7") is None

    run(body())
    assert any("as its own max_age says" in record.message for record in caplog.records)


def test_a_resource_without_a_stream(server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    """It is told at the start, with the command that makes one; letters are for the spool; once made, it is used."""
    resource = "nowhere.dead"

    async def body() -> None:
        async with stream(server, resource) as handler:
            assert handler._dead is not None
            handler._dead.start()
            while not caplog.records:
                await asyncio.sleep(0.01)
            with pytest.raises(PublishError, match=r"no stream keeps nowhere\.dead") as refused:
                await handler.bury(letter(resource, "k1"))
            assert not refused.value.transient
            async with client(server) as other:
                await other.jetstream().add_stream(name="NOWHERE", subjects=[resource])
            handler._dead._looked_s -= nats_dead.LOOK_AGAIN_S
            await handler.bury(letter(resource, "k1"))

    run(body())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "nats stream add DEAD --subjects 'nowhere.dead'" in record.fields["reason"]  # type: ignore[attr-defined]


def test_a_stream_that_keeps_nothing_for_itself(server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    """One with interest retention is none for dead letters; that is told."""
    resource = "interest.dead"

    async def body() -> None:
        async with client(server) as other, stream(server, resource) as handler:
            await other.jetstream().add_stream(name="INTEREST", subjects=[resource], retention="interest")
            with pytest.raises(PublishError) as refused:
                await handler.bury(letter(resource, "k"))
            assert not refused.value.transient

    run(body())
    assert any("no stream keeps this handler's dead letters" in record.message for record in caplog.records)


def test_a_broker_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody listens to everything and nobody answers, the first letter waits, the next do not."""
    monkeypatch.setattr("atmo_farm.streams.nats_requests.ANSWER_S", 0.3)
    server = NatsServer(tmp_path)
    server.start()

    async def body() -> None:
        async with client(server) as other, stream(server, "atmo.dead.a.h") as handler:
            await other.subscribe(">")
            await other.flush()
            for _ in range(20):
                with pytest.raises(PublishError) as refused:
                    await handler.bury(letter("atmo.dead.a.h", "k"))
                assert refused.value.transient

    try:
        run(body(), patience_s=3)
    finally:
        server.stop()


def test_a_server_without_jetstream(nats_server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    """Letters are for the spool; that is told and no warning; nobody reads there."""
    caplog.set_level(logging.INFO, "atmo_farm")

    async def body() -> None:
        async with stream(nats_server, "atmo.dead.a.h") as handler:
            with pytest.raises(PublishError) as refused:
                await handler.bury(letter("atmo.dead.a.h", "k"))
            assert not refused.value.transient
        async with letters(nats_server, "atmo.dead.a.h") as place:
            assert await all_of(place) == []
            assert await place.load("1") is None

    run(body())
    (record,) = (record for record in caplog.records if "spool" in record.message)
    assert record.levelno == logging.INFO


def test_a_letter_over_max_payload(tmp_path: Path) -> None:
    """It can never be taken; the headers count."""
    server = NatsServer(tmp_path, jetstream(tmp_path / "js") + "\n" + max_payload(2000))
    server.start()

    async def body() -> None:
        async with stream(server, "atmo.dead.a.h") as handler:
            with pytest.raises(PublishError, match="max_payload") as refused:
                await handler.bury(letter("atmo.dead.a.h", "k", b"x" * 1900))
            assert not refused.value.transient
            await handler.bury(letter("atmo.dead.a.h", "k", b"x" * 1500))

    try:
        run(body())
    finally:
        server.stop()


def test_a_stream_that_is_full_or_gone(server: NatsServer) -> None:
    """Full: not now. Deleted: not now, and then one is made again."""
    full = "full.dead"

    async def body() -> None:
        async with client(server) as other:
            await other.jetstream().add_stream(name="FULL", subjects=[full], max_msgs=1, discard="new")
            async with stream(server, full) as handler:
                await handler.bury(letter(full, "k1"))
                with pytest.raises(PublishError, match="maximum messages exceeded") as refused:
                    await handler.bury(letter(full, "k2"))
                assert refused.value.transient
            resource = "atmo.dead.gone.h"
            async with stream(server, resource) as handler:
                await handler.bury(letter(resource, "k1"))
                await other.jetstream().delete_stream("ATMO_DEAD")
                with pytest.raises(PublishError) as refused:
                    await handler.bury(letter(resource, "k2"))
                assert refused.value.transient
                await handler.bury(letter(resource, "k2"))

    run(body())


def test_a_broker_that_is_away(tmp_path: Path) -> None:
    """A letter is not accepted for now, at once; reading is an error that names the connection."""
    server = NatsServer(tmp_path, jetstream(tmp_path / "js"))
    server.start()

    async def body() -> None:
        async with stream(server, "atmo.dead.a.h") as handler:
            await handler.bury(letter("atmo.dead.a.h", "k1"))
            server.stop()
            while handler._client.is_connected:
                await asyncio.sleep(0.01)
            with pytest.raises(PublishError, match="out of reach") as refused:
                await handler.bury(letter("atmo.dead.a.h", "k2"))
            assert refused.value.transient
            with pytest.raises(TimedOut, match="nats default is out of reach: connection refused"):
                async with letters(server, "atmo.dead.a.h"):
                    pass

    run(body())


USERS = """
authorization {
  users = [
    { user: admin, password: a }
    { user: plain, password: b, permissions: {
        publish: ["atmo.dead.>", "x"], subscribe: ["x", "_INBOX.>"] } }
  ]
}
"""


def test_a_user_who_may_not_ask(tmp_path: Path) -> None:
    """Without the right to JetStream's API it is tried: where there is a stream, it is used; else letters are for the
    spool."""
    server = NatsServer(tmp_path, jetstream(tmp_path / "js") + USERS)
    server.start()

    async def body() -> None:
        resource = "atmo.dead.a.h"
        other = Client()
        await other.connect(server.url, user="admin", password="a")
        async with stream(server, resource, user="plain", password="b") as handler:
            with pytest.raises(PublishError):
                await handler.bury(letter(resource, "k1"))
            with pytest.raises(PublishError) as refused:
                await handler.bury(letter(resource, "k1"))
            assert not refused.value.transient
        await other.jetstream().add_stream(name="ATMO_DEAD", subjects=["atmo.dead.>"])
        async with stream(server, resource, user="plain", password="b") as handler:
            await handler.bury(letter(resource, "k1"))
        assert (await other.jetstream().stream_info("ATMO_DEAD")).state.messages == 1
        await other.close()

    try:
        run(body())
    finally:
        server.stop()


def test_sent_where_the_user_may_not_publish(tmp_path: Path, start_nats: Callable[[str], NatsServer]) -> None:
    """It is not taken for sent."""
    server = start_nats(USERS)

    async def body() -> None:
        other = Client()
        await other.connect(server.url, user="admin", password="a")
        await other.subscribe("secret")
        connection = nats_connection(server.url, user="plain", password="b")
        async with NatsLetters(connection, "atmo.dead.a.h", "test") as place:
            assert place.problem == "this user may not publish on $JS.API.STREAM.NAMES"
            assert await all_of(place) == []
            with pytest.raises(PublishError, match="this user may not publish on secret"):
                await place.send(Output("secret", b"x", {}))
        await other.close()

    run(body())


@pytest.mark.timeout(600)
def test_many_letters_while_some_are_removed(server: NatsServer, amount: Callable[[int, int], int]) -> None:
    """They come in order, each once, in batches; what is removed meanwhile is missing; what comes meanwhile is for the
    next time."""
    resource, count = "atmo.dead.many.h", amount(2_000, 100_000)

    async def body() -> None:
        async with client(server) as other, stream(server, resource) as handler, letters(server, resource) as place:
            await handler.bury(letter(resource, "first"))
        async with client(server) as other, letters(server, resource) as place:
            for number in range(count):
                await other.publish(resource, b"x" * 100, headers={"Atmo-Dead-Id": str(number)})
                if number % 1000 == 0:
                    await other.flush()
            await other.jetstream().publish("atmo.dead.many.other", b"not this one")
            seen: list[str] = []
            removed: set[str] = set()
            async for kept in place.letters():
                seen.append(Letter(kept).told["id"])
                if len(seen) == 700:
                    ahead = range(int(kept.id) + 900, int(kept.id) + 910)
                    for sequence in ahead:
                        assert await place.remove(str(sequence))
                    removed = {str(len(seen) - 2 + 900 + step) for step in range(10)}
                    await other.jetstream().publish(resource, b"late", headers={"Atmo-Dead-Id": "late"})
            assert seen == ["first", *(str(number) for number in range(count) if str(number) not in removed)]
            assert len(await all_of(place)) == count - 10 + 2

    run(body(), patience_s=60 + count / 500)


def test_a_reader_that_the_server_has_forgotten(server: NatsServer) -> None:
    """Whoever takes letters slowly gets all of them, each once."""
    resource, count = "atmo.dead.slow.h", 600

    async def body() -> None:
        async with client(server) as other, letters(server, resource) as place:
            js = other.jetstream()
            for number in range(count):
                await js.publish(resource, b"", headers={"Atmo-Dead-Id": str(number)})
            async with letters(server, resource) as place:
                seen = []
                async for kept in place.letters():
                    seen.append(Letter(kept).told["id"])
                    if len(seen) in (100, 400):
                        for consumer in await js.consumers_info("ATMO_DEAD"):
                            await js.delete_consumer("ATMO_DEAD", consumer.name)
            assert seen == list(map(str, range(count)))
            assert await js.consumers_info("ATMO_DEAD") == [], "none is left behind"

    run(body())


def test_a_stream_that_is_another_one_now(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no ages of single messages any more: looked at again, and the letter is kept without."""
    monkeypatch.setattr(nats_dead, "DOUBT_S", -1.0)

    async def body() -> None:
        async with client(server) as other, stream(server, "dead.other", 60.0) as made:
            js = other.jetstream()
            asked: dict[str, Any] = {"name": "OTHER", "subjects": ["dead.other"]}
            await other.request("$JS.API.STREAM.CREATE.OTHER", json.dumps({**asked, "allow_msg_ttl": True}).encode())
            await made.bury(letter("dead.other", "m1.a.h.dead"))
            await js.delete_stream("OTHER")
            await other.request("$JS.API.STREAM.CREATE.OTHER", json.dumps(asked).encode())
            with pytest.raises(PublishError, match="per-message TTL is disabled") as caught:
                await made.bury(letter("dead.other", "m2.a.h.dead"))
            assert caught.value.transient
            await made.bury(letter("dead.other", "m2.a.h.dead"))

    run(body())


def test_all_at_once(server: NatsServer, start_nats: Callable[[str], NatsServer], tmp_path: Path) -> None:
    """By subject: what stands on another one stays. A user who may not purge removes none that way."""

    async def body() -> None:
        async with stream(server, "atmo.dead.a.h") as first, stream(server, "atmo.dead.a.other") as other:
            for number in range(3):
                await first.bury(letter("atmo.dead.a.h", f"m{number}.a.h.dead"))
            await other.bury(letter("atmo.dead.a.other", "m.a.other.dead"))
            async with letters(server, "atmo.dead.a.h") as place:
                assert await place.purge() == 3
                assert await all_of(place) == []
            async with letters(server, "atmo.dead.a.other") as place:
                assert len(await all_of(place)) == 1
        few = start_nats(
            f'jetstream {{ store_dir: "{tmp_path / "js"}" }}\n'
            'authorization { users = [ { user: "few", password: "few", '
            'permissions: { publish: { deny: "$JS.API.STREAM.PURGE.>" } } } ] }'
        )
        connection = nats_connection(few.url, user="few", password="few")
        async with stream(few, "atmo.dead.a.h", user="few", password="few") as third:
            await third.bury(letter("atmo.dead.a.h", "m.a.h.dead"))
        async with NatsLetters(connection, "atmo.dead.a.h", "test") as place:
            assert await place.purge() == 0
            assert len(await all_of(place)) == 1

    run(body())


def test_since(server: NatsServer) -> None:
    """What was kept before is not told."""
    resource = "atmo.dead.since.h"

    async def body() -> None:
        async with stream(server, resource) as handler:
            await handler.bury(letter(resource, "old"))
            await asyncio.sleep(0.05)
            await handler.bury(letter(resource, "new"))
        async with letters(server, resource) as place:
            _, new = await all_of(place)
            assert [kept.key for kept in await all_of(place, new.kept_s - 0.01)] == ["new"]
            assert await all_of(place, new.kept_s + 60) == []
            assert await all_of(place, 1e11) == []
            assert len(await all_of(place, -1e11)) == 2

    run(body())


def test_sent_again_into_a_stream(server: NatsServer) -> None:
    """It is acknowledged; the same again is no second message; headers arrive as they were."""

    async def body() -> None:
        async with client(server) as other, letters(server, "atmo.dead.a.h") as place:
            await other.jetstream().add_stream(name="IN", subjects=["again.*"])
            output = Output("again.in", BINARY, {"Atmo-Replays": "1"}, None, "replay-1", None, ODD)
            await place.send(output)
            await place.send(output)
            assert (await other.jetstream().stream_info("IN")).state.messages == 1
            message = await other.jetstream().get_msg("IN", 1)
            assert message.data == BINARY
            await other.jetstream().delete_stream("IN")
            with pytest.raises(PublishError, match=r"the stream of again\.in is gone") as refused:
                await place.send(output)
            assert refused.value.transient

    run(body())


def test_sent_again_to_whoever_listens(nats_server: NatsServer) -> None:
    """Without a stream: somebody must be there, and gets it; nobody is an error, and so is what no subject is."""

    async def body() -> None:
        async with client(nats_server) as other, letters(nats_server, "atmo.dead.a.h") as place:
            output = Output("again.core", BINARY, {"Atmo-Replays": "1"}, None, "replay-1", None, ODD)
            with pytest.raises(PublishError, match=r"nobody listens on again\.core") as refused:
                await place.send(output)
            assert refused.value.transient
            listener = await other.subscribe("again.core")
            await other.flush()
            await place.send(output)
            message = await listener.next_msg()
            assert message.data == BINARY
            assert message.headers is not None and message.headers["Atmo-Replays"] == "1"
            with pytest.raises(PublishError, match="cannot publish on 'a b'") as refused:
                await place.send(Output("a b", b"", {}))
            assert not refused.value.transient

    run(body())
