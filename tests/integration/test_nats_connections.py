"""Ways into a real nats-server, ways to be refused, and what a stream does when its server fails, floods or hangs."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import nats
import pytest

from atmo_farm.directive.connections import Tls
from atmo_farm.errors import CannotStart, PublishError
from atmo_farm.streams import nats_link
from atmo_farm.streams.base import Output
from atmo_farm.streams.nats import NatsStream
from tests.farm import Farm, nats_directive, wait_for, write_app
from tests.servers import certificates
from tests.servers.nats import NatsServer, max_payload, nkey, tls, token, user_password
from tests.servers.nats_users import Operator, new_key
from tests.servers.process import free_port
from tests.streams import Events, Handled, nats_connection, run

StartNats = Callable[[str], NatsServer]

PASSWORD = "correct-horse-battery"
WRONG_PASSWORD = "tr0ub4dor-and-3"


@attrs.frozen
class Keys:
    """Everything that a server or a client may need to know the other, in files where it wants files."""

    folder: Path
    """Certificates of the authority that servers trust; below `other`, those of one that nobody trusts."""
    nkey: str
    """The public key of the file `seed`."""
    operator: Operator

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def tls(self, *, client: str = "", authority: str = "ca.pem", **more: Any) -> Tls:
        """TLS settings that trust the authority and show a client's certificate, if one is named."""
        pair: dict[str, Any] = (
            {"cert_file": self.path(f"{client}.pem"), "key_file": self.path(f"{client}.key")} if client else {}
        )
        return Tls(ca_file=self.path(authority), **pair, **more)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = certificates.make(tmp_path_factory.mktemp("keys"))
    certificates.make(folder / "other")
    user, operator = new_key(), Operator()
    (folder / "seed").write_text(f"{user.seed}\n")
    (folder / "other.seed").write_text(f"{new_key().seed}\n")
    (folder / "user.creds").write_text(operator.credentials())
    (folder / "small.creds").write_text(operator.credentials(payload=100))
    (folder / "expired.creds").write_text(operator.credentials(expires=1_600_000_000))
    (folder / "other.creds").write_text(Operator().credentials())
    return Keys(folder, user.public, operator)


def stream_of(events: Events, *addresses: str, subject: str = "a.b", **options: Any) -> NatsStream:
    bounds = {name: options.pop(name) for name in ("ping_interval_s", "max_pending") if name in options}
    connection = nats_connection(*addresses, **options)
    return NatsStream(connection, subject, group="g", client_name="test/0", events=events, **bounds)


async def serving(stream: NatsStream, handled: Handled) -> None:
    """Open, subscribe, and see a message of its own come back."""
    await stream.open()
    await stream.consume(handled)
    await stream.publish(Output("a.b", b"first", {"N": "1"}))
    await handled.payloads(1)
    assert handled.messages[0].data == b"first" and handled.messages[0].headers == {"n": "1"}


async def give_up_after(stream: NatsStream, attempts: int) -> None:
    """Let it try to open so often, in vain; then cancel it, which it obeys."""
    opening = asyncio.ensure_future(stream.open())
    while sum(server.reconnects for server in stream._client.server_pool) < attempts:
        await asyncio.sleep(0.01)
    opening.cancel()
    await asyncio.wait({opening})
    assert opening.cancelled()


Way = Callable[[Keys], tuple[str, Mapping[str, Any]]]
"""What a server is configured with, and what a client needs to get in."""

WAYS_IN: dict[str, Way] = {
    "user and password": lambda k: (user_password("ann", PASSWORD), {"user": "ann", "password": PASSWORD}),
    "in the address": lambda k: (user_password("ann", "p@ss:w"), {"in_address": "ann:p%40ss%3Aw@"}),
    "token": lambda k: (token(PASSWORD), {"token": PASSWORD}),
    "token in the address": lambda k: (token(PASSWORD), {"in_address": f"{PASSWORD}@"}),
    "nkey": lambda k: (nkey(k.nkey), {"nkey_seed_file": k.path("seed")}),
    "credentials": lambda k: (k.operator.configuration(), {"credentials_file": k.path("user.creds")}),
    "TLS": lambda k: (tls(k.folder), {"tls": k.tls()}),
    "TLS by scheme and name": lambda k: (
        tls(k.folder),
        {"scheme": "tls", "tls": k.tls(server_name="localhost")},
    ),
    "mutual TLS": lambda k: (tls(k.folder, verify=True), {"tls": k.tls(client="client")}),
    "handshake first": lambda k: (tls(k.folder, handshake_first=True), {"tls": k.tls(handshake_first=True)}),
    "TLS and a password": lambda k: (
        f"{tls(k.folder)}\n{user_password('ann', PASSWORD)}",
        {"tls": k.tls(), "user": "ann", "password": PASSWORD},
    ),
    "mutual TLS and credentials": lambda k: (
        f"{tls(k.folder, verify=True)}\n{k.operator.configuration()}",
        {"tls": k.tls(client="client"), "credentials_file": k.path("user.creds")},
    ),
}


def address(server: NatsServer, options: dict[str, Any]) -> str:
    return f"{options.pop('scheme', 'nats')}://{options.pop('in_address', '')}{server.address}"


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_way_in(start_nats: StartNats, keys: Keys, way: str, caplog: pytest.LogCaptureFixture) -> None:
    """Connected, subscribed, publishing; the same again after a restart of the server; no library warns of anything."""
    config, given = WAYS_IN[way](keys)
    server, options = start_nats(config), dict(given)

    async def body() -> None:
        events, handled = Events(), Handled()
        stream = stream_of(events, address(server, options), **options)
        await serving(stream, handled)
        await asyncio.to_thread(server.restart)
        await events.until_told("connected")
        await stream.publish(Output("a.b", b"again", {}))
        assert (await handled.payloads(2))[1] == b"again"
        await stream.close()

    run(body())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_credentials_beside_a_default_user(start_nats: StartNats, keys: Keys) -> None:
    """A server that lets in anybody, as somebody else: the stream comes as who it is."""
    server = start_nats(
        f"authorization {{ users = [ {{ user: nobody, password: x, permissions: {{ subscribe: none }} }},"
        f' {{ nkey: "{keys.nkey}" }} ] }}\nno_auth_user: nobody'
    )

    async def body() -> None:
        stream = stream_of(Events(), server.url, nkey_seed_file=keys.path("seed"))
        await serving(stream, Handled())
        await stream.close()

    run(body())


REFUSED: dict[str, tuple[Way, str]] = {
    "wrong password": (
        lambda k: (user_password("ann", PASSWORD), {"user": "ann", "password": WRONG_PASSWORD}),
        "Authorization Violation",
    ),
    "no password": (lambda k: (user_password("ann", PASSWORD), {}), "Authorization Violation"),
    "wrong token": (lambda k: (token(PASSWORD), {"token": WRONG_PASSWORD}), "Authorization Violation"),
    "another nkey": (
        lambda k: (nkey(k.nkey), {"nkey_seed_file": k.path("other.seed")}),
        "Authorization Violation",
    ),
    "another operator": (
        lambda k: (k.operator.configuration(), {"credentials_file": k.path("other.creds")}),
        "Authorization Violation",
    ),
    "expired": (
        lambda k: (k.operator.configuration(), {"credentials_file": k.path("expired.creds")}),
        "Authorization Violation",
    ),
    "wrong password over TLS": (
        lambda k: (
            f"{tls(k.folder)}\n{user_password('ann', PASSWORD)}",
            {"tls": k.tls(), "user": "ann", "password": WRONG_PASSWORD},
        ),
        "Authorization Violation",
    ),
    "another authority": (
        lambda k: (tls(k.folder), {"tls": k.tls(authority="other/ca.pem")}),
        "the server's certificate is not accepted: unable to get local issuer certificate",
    ),
    "the machine's authorities": (
        lambda k: (tls(k.folder), {}),
        "the server's certificate is not accepted: unable to get local issuer certificate",
    ),
    "another name": (
        lambda k: (tls(k.folder), {"tls": k.tls(server_name="nats.example.com")}),
        "the server's certificate is not accepted: Hostname mismatch, certificate is not valid for 'nats.example.com'",
    ),
    "no TLS there": (
        lambda k: ("", {"tls": k.tls()}),
        "the server offers no TLS, which the connection asks for",
    ),
    "no TLS there, handshake first": (
        lambda k: ("", {"tls": k.tls(handshake_first=True)}),
        "TLS failed: wrong version number",
    ),
    "no certificate": (
        lambda k: (tls(k.folder, verify=True), {"tls": k.tls()}),
        "the server ended TLS: certificate required",
    ),
    "another's certificate": (
        lambda k: (tls(k.folder, verify=True), {"tls": k.tls(client="other/client")}),
        "the server ended TLS: unknown ca",
    ),
}

TORN = {"connection reset by peer", "broken pipe", "connection lost", "the server closed the connection"}
"""A server that ends TLS may tear the connection down before its alert is read, now and then."""


@pytest.mark.parametrize("what", REFUSED)
def test_refused(
    start_nats: StartNats,
    keys: Keys,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One clear reason, told once in five attempts, without a secret in it or the log; `open` can be given up."""
    monkeypatch.setattr(nats_link, "RECONNECT_WAIT_S", 0.01)
    way, reason = REFUSED[what]
    config, given = way(keys)
    server, options = start_nats(config), dict(given)

    async def body() -> list[str]:
        events = Events()
        stream = stream_of(events, address(server, options), **options)
        await give_up_after(stream, 5)
        return events.told

    with caplog.at_level(logging.DEBUG):
        told = run(body())
    if "TLS: " in reason:
        told = [line for line in told if line.removeprefix("waiting: ") not in TORN]
    assert told == [f"waiting: {reason}"]
    for secret in (PASSWORD, WRONG_PASSWORD, Path(keys.path("other.seed")).read_text().strip(), "eyJ"):
        assert secret not in caplog.text and secret not in "".join(told)


@pytest.mark.parametrize(
    ("port_of", "reason"),
    [
        ("nobody", "connection refused"),
        ("web server", "empty response from server when expecting INFO message"),
    ],
)
def test_no_server_there(port_of: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, or something else does: waited for."""
    monkeypatch.setattr(nats_link, "RECONNECT_WAIT_S", 0.01)

    async def body() -> list[str]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        web = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = free_port() if port_of == "nobody" else web.sockets[0].getsockname()[1]
        events = Events()
        stream = stream_of(events, f"127.0.0.1:{port}")
        await give_up_after(stream, 5)
        web.close()
        return events.told

    assert run(body()) == [f"waiting: {reason}"]


def permissions(subscribe: str) -> str:
    return (
        f'authorization {{ users = [ {{ user: ann, password: "{PASSWORD}", '
        f'permissions: {{ publish: ">", subscribe: ["{subscribe}", "_INBOX.>"] }} }} ] }}'
    )


def test_no_permission_to_subscribe(start_nats: StartNats) -> None:
    """CannotStart: what the server said, and what the user may not do."""
    server = start_nats(permissions("other.>"))

    async def body() -> str:
        stream = stream_of(Events(), server.url, user="ann", password=PASSWORD)
        await stream.open()
        with pytest.raises(CannotStart) as caught:
            await stream.consume(Handled())
        await stream.close()
        return str(caught.value)

    assert run(body()) == (
        'nats default: permissions violation for subscription to "a.b" using queue "g": '
        "this user may not subscribe to a.b"
    )


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_a_permission_that_is_taken_away(start_nats: StartNats, how: str) -> None:
    """While the stream consumes, or while the server was away: the process must end, for it would be deaf."""
    server = start_nats(permissions("a.*"))

    async def body() -> list[str]:
        events = Events()
        stream = stream_of(events, server.url, user="ann", password=PASSWORD)
        await serving(stream, Handled())
        server.config_file.write_text(server.config_file.read_text().replace("a.*", "b.*"))
        if how == "reload":
            os.kill(server.pid, signal.SIGHUP)
        else:
            await asyncio.to_thread(server.restart)
        await events.until(lambda: events.told[-1:] != [] and events.told[-1].startswith("closed"))
        await stream.close()
        return events.told

    told = run(body())
    assert "may not subscribe to a.b" in told[-1] and "connected" not in told


def test_no_permission_to_publish(start_nats: StartNats, caplog: pytest.LogCaptureFixture) -> None:
    """The server's word is a warning; the stream goes on."""
    server = start_nats(permissions("a.*").replace('publish: ">"', 'publish: "a.b"'))

    async def body() -> None:
        events, handled = Events(), Handled()
        stream = stream_of(events, server.url, user="ann", password=PASSWORD)
        await serving(stream, handled)
        await stream.publish(Output("forbidden", b"x", {}))
        await stream.publish(Output("a.b", b"allowed", {}))
        assert (await handled.payloads(2))[1] == b"allowed"
        assert events.told == []
        await stream.close()

    with caplog.at_level(logging.WARNING, "atmo_farm"):
        run(body())
    (record,) = caplog.records
    assert record.fields["reason"] == 'permissions violation for publish to "forbidden"'  # type: ignore[attr-defined]


@pytest.mark.parametrize("limit", ["server", "user"])
def test_a_too_large_output_on_a_standing_connection(start_nats: StartNats, keys: Keys, limit: str) -> None:
    """Of the server's max_payload, or the user's own below it: the requester is told, the connection is the same."""
    small_user = {"credentials_file": keys.path("small.creds")}
    server = start_nats(max_payload(100) if limit == "server" else keys.operator.configuration())

    async def body() -> None:
        events, handled = Events(), Handled()
        stream = stream_of(events, server.url, **({} if limit == "server" else small_user))
        await serving(stream, handled)
        client_id = stream._client.client_id
        asking = stream_of(Events(), server.url, subject="inbox", **({} if limit == "server" else small_user))
        answers = Handled()
        await asking.open()
        await asking.consume(answers)
        handled.messages[0].reply = "inbox"
        for size in (101, 1_000_000):
            with pytest.raises(PublishError, match="max_payload of 100") as caught:
                await stream.publish(Output("inbox", b"x" * size, {}, handled.messages[0]))
            assert not caught.value.transient
        await stream.answer_error(handled.messages[0], 500, "too large")
        await stream.publish(Output("inbox", b"x" * 100, {}, handled.messages[0]))
        assert await answers.payloads(2) == [b"", b"x" * 100]
        assert answers.messages[0].headers["nats-service-error"] == "too large"
        assert events.told == [] and stream._client.client_id == client_id
        await stream.close()
        await asking.close()

    run(body())


def test_a_server_without_headers(start_nats: StartNats) -> None:
    """An output with headers is refused for good instead of ending the connection; others go through."""
    server = start_nats("no_header_support: true")

    async def body() -> None:
        events, handled = Events(), Handled()
        stream = stream_of(events, server.url)
        await stream.open()
        await stream.consume(handled)
        with pytest.raises(PublishError, match="headers") as caught:
            await stream.publish(Output("a.b", b"x", {"N": "1"}))
        assert not caught.value.transient
        await stream.publish(Output("a.b", b"x", {}))
        assert await handled.payloads(1) == [b"x"] and events.told == []
        await stream.close()

    run(body())


def test_several_servers(start_nats: StartNats) -> None:
    """The first is dead from the start; when the one in use dies, the next one is there within 5 s."""
    one, two = start_nats(""), start_nats("")

    async def body() -> None:
        events, handled = Events(), Handled()
        stream = stream_of(events, f"127.0.0.1:{free_port()}", one.url, two.url)
        await serving(stream, handled)
        for number in range(2):
            url = stream._client.connected_url
            assert url is not None
            used, other = (one, two) if url.port == one.port else (two, one)
            killed_at = time.monotonic()
            await asyncio.to_thread(used.kill)
            await events.until_told("connected", times=number + 1)
            assert time.monotonic() - killed_at < 5
            await stream.publish(Output("a.b", b"%d" % number, {}))
            assert (await handled.payloads(2 + number))[-1] == b"%d" % number
            assert stream._client.connected_url is not None and stream._client.connected_url.port == other.port
            await asyncio.to_thread(used.start)
        await stream.close()

    run(body())


def test_a_server_that_comes_back(start_nats: StartNats) -> None:
    """Killed, three seconds later back on the same port: consuming within 5 s; few words meanwhile, and idle."""
    server = start_nats("")

    async def body() -> None:
        events, handled = Events(), Handled()
        stream = stream_of(events, server.url)
        await serving(stream, handled)
        await asyncio.to_thread(server.kill)
        await events.until(lambda: bool(events.told))
        cpu_before = time.process_time()
        await asyncio.sleep(3)
        assert time.process_time() - cpu_before < 0.5
        await stream.publish(Output("a.b", b"kept", {}))
        back_at = time.monotonic()
        await asyncio.to_thread(server.start)
        assert (await handled.payloads(2))[-1] == b"kept"
        assert time.monotonic() - back_at < 5
        await events.until(lambda: events.told[-1] == "connected")
        assert 2 <= len(events.told) <= 3
        await stream.close()

    run(body())


@pytest.mark.parametrize(
    ("ping_interval_s", "noticed_s"), [(0.1, 2), (nats_link.PING_INTERVAL_S, 30)], ids=["short", "default"]
)
def test_a_half_open_server(start_nats: StartNats, ping_interval_s: float, noticed_s: float) -> None:
    """Stopped, not dead: its port takes connections and nobody answers. Noticed in time; it goes on when it goes on."""
    server = start_nats("")

    async def body() -> None:
        events, handled = Events(), Handled()
        stream = stream_of(events, server.url, ping_interval_s=ping_interval_s)
        await serving(stream, handled)
        server.pause()
        paused_at = time.monotonic()
        try:
            await events.until(lambda: bool(events.told))
            assert time.monotonic() - paused_at < noticed_s
            assert events.told == ["waiting: the server does not answer pings"]
            await events.until(lambda: len(events.told) == 2)
            assert events.told[1] == "waiting: no answer in time"
        finally:
            server.resume()
        resumed_at = time.monotonic()
        await events.until_told("connected")
        await stream.publish(Output("a.b", b"again", {}))
        assert (await handled.payloads(2))[-1] == b"again"
        assert time.monotonic() - resumed_at < 5
        await stream.close()

    run(body(), 60)


def test_a_flood(start_nats: StartNats) -> None:
    """Ten times the bound, faster than they are handled: each is handed over or counted; the connection stands."""
    server = start_nats("")

    async def body() -> None:
        events, handled = Events(), Handled(shut=True)
        stream = stream_of(events, server.url, max_pending=2000)
        await stream.open()
        await stream.consume(handled)
        client = await nats.connect(server.url)
        for number in range(20_000):
            await client.publish("a.b", b"%d" % number)
        await client.close()
        await events.until(lambda: sum(events.drops) + stream.pending() + len(handled.messages) == 20_000)
        handled.open()
        taken = [int(data) for data in await handled.payloads(20_000 - sum(events.drops))]
        assert taken == sorted(set(taken)) and len(taken) >= 2000 and events.told == []
        await stream.publish(Output("a.b", b"after", {}))
        await handled.until(lambda: handled.messages[-1].data == b"after")
        await stream.close()

    run(body())


# The whole farm


@pytest.fixture
def farm_on(tmp_path: Path) -> Iterator[Callable[..., Farm]]:
    """`farm_on(connection, handler)` gives a farm that is not started; it is ended at once after the test."""
    made: list[Farm] = []

    def make(connection: str, handler: str, *arguments: str, environ: dict[str, str] | None = None) -> Farm:
        guests = (("c", "hello"), ("c", "looping"))
        directive = nats_directive("ADDRESS", handler).replace("serverAddress: ADDRESS", connection)
        farm = Farm(write_app(tmp_path / f"app{len(made)}", directive, *guests), *arguments, environ=environ)
        made.append(farm)
        return farm

    yield make
    for farm in made:
        if farm.process is not None and farm.process.poll() is None:
            farm.process.send_signal(signal.SIGTERM)
            farm.wait_log(message="SIGTERM: draining")  # the second one ends what a full queue would hold up
        farm.__exit__()


def status(farm: Farm, *parts: str) -> str:
    """The first STATUS from now on that says all of this."""
    while True:
        datagram = farm.wait_notified("STATUS=")
        if all(part in datagram for part in parts):
            return datagram


def test_a_farm_with_all_of_it(start_nats: StartNats, keys: Keys, farm_on: Callable[..., Farm]) -> None:
    """Two addresses of which one is dead, TLS, a password from the environment; and it outlives its server."""
    server = start_nats(f"{tls(keys.folder)}\n{user_password('ann', PASSWORD)}")
    connection = (
        f"serverAddress: [127.0.0.1:{free_port()}, {server.address}]\n    user: ann\n"
        f"    password: env(TEST_NATS_PASSWORD)\n    tls: {{caFile: {keys.path('ca.pem')}}}"
    )
    context = ssl.create_default_context(cafile=keys.path("ca.pem"))

    async def ask() -> bytes:
        login: dict[str, Any] = {"user": "ann", "password": PASSWORD, "tls": context}
        client = await nats.connect(server.url, **login)
        answer = await client.request("a.b", b"bob", timeout=10)
        await client.close()
        return answer.data

    farm = farm_on(connection, "resource: a.b\nsteps: [{fn: hello}]", environ={"TEST_NATS_PASSWORD": PASSWORD})
    farm.start()
    status(farm, "1 of 1 ready")
    assert asyncio.run(ask()) == b"hello, bob"
    before = farm.children()
    server.kill()
    waiting = status(farm, "waiting: ")
    assert "0 of 1 ready" in waiting and "for nats default" in waiting
    time.sleep(3)
    back_at = time.monotonic()
    server.start()
    status(farm, "1 of 1 ready")
    assert asyncio.run(ask()) == b"hello, bob"
    assert time.monotonic() - back_at < 5
    assert farm.children() == before
    assert PASSWORD not in farm.log_file.read_text() and PASSWORD not in "".join(farm.notified)


def test_a_farm_that_is_refused(start_nats: StartNats, farm_on: Callable[..., Farm]) -> None:
    """It is up and says what it waits for and why, without a secret in any place that others can read."""
    server = start_nats(user_password("ann", PASSWORD))
    connection = f"serverAddress: {server.url}\n    user: ann\n    password: env(TEST_NATS_PASSWORD)"
    environ = {"TEST_NATS_PASSWORD": WRONG_PASSWORD}
    farm = farm_on(connection, "resource: a.b\nsteps: [{fn: hello}]", environ=environ)
    farm.start()
    farm.wait_notified("READY=1")
    assert "for nats default (Authorization Violation)" in status(farm, "waiting: ")
    line = farm.wait_log(message="waiting for nats default")
    assert line["reason"] == "Authorization Violation" and line["handler"] == "nats-a_b"
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in (farm.pid, *farm.children())]
    for text in (farm.log_file.read_text(), "".join(farm.notified), *commands):
        assert WRONG_PASSWORD not in text
    assert len(farm.log(message="waiting for nats default")) == 1

    demanding = farm_on(
        connection, "resource: a.b\nsteps: [{fn: hello}]", "--require-connections", environ=environ
    ).start()
    assert demanding.process is not None and demanding.process.wait(30) == 3
    said = (demanding.folder / "stderr").read_text() + demanding.log_file.read_text()
    assert "Authorization Violation" in said and WRONG_PASSWORD not in said


def test_a_farm_that_may_not_subscribe(start_nats: StartNats, farm_on: Callable[..., Farm]) -> None:
    """It cannot get ready, and its status says why."""
    server = start_nats(permissions("other.>"))
    connection = f"serverAddress: {server.url}\n    user: ann\n    password: {PASSWORD}"
    farm = farm_on(connection, "resource: a.b\nsteps: [{fn: hello}]").start()
    said = status(farm, "not getting ready: ")
    assert "permissions violation for subscription" in said and "may not subscribe to a.b" in said
    assert PASSWORD not in said + farm.log_file.read_text()


def test_a_farm_that_is_flooded(start_nats: StartNats, farm_on: Callable[..., Farm]) -> None:
    """Over 64 MiB of waiting messages the rest is dropped: each one counted, said once a second, and in the status."""
    server = start_nats("")
    handler = "resource: a.b\nmaxInFlight: 1\ntimeout: 60s\nsteps: [{fn: looping}]"
    farm = farm_on(f"serverAddress: {server.url}", handler).start()
    farm.wait_notified("READY=1")
    size = 1_000_000
    fit = (64 << 20) // (size + len("a.b"))

    async def flood() -> None:
        client = await nats.connect(server.url)
        await client.publish("a.b", b"for ever")  # holds the only place
        for _ in range(1 + fit):  # one that the handler waits with, and what may wait behind it
            await client.publish("a.b", b"x" * size)
            await client.flush()
            await asyncio.sleep(0.02)  # as fast as the server lets a subscriber be that shares its loop with a guest
        for _ in range(25):
            for _ in range(4):
                await client.publish("a.b", b"x" * size)
            await client.flush()
            await asyncio.sleep(0.1)
        await client.close()

    asyncio.run(flood())
    said = status(farm, "100 messages dropped")
    assert "1 of 1 ready" in said

    def lines_of_all() -> list[dict[str, Any]]:
        found = farm.log(message="messages dropped: the handler is slower than they come")
        return found if sum(line["messages"] for line in found) == 100 else []

    lines = wait_for(lines_of_all)
    assert 2 <= len(lines) <= 5
    assert all(line["level"] == "warn" and line["handler"] == "nats-a_b" for line in lines)
    times = [datetime.datetime.fromisoformat(line["time"]) for line in lines]
    assert all((after - before).total_seconds() > 0.9 for before, after in pairwise(times))
