"""nats-py's client with a short way for messages: what it needs of nats-py, and what it does on the wire.

It stands on names that nats-py does not promise to keep. The first tests hold them fast: when one fails after an
upgrade of nats-py, read what has changed there before the range in setup.cfg is widened.
"""

from __future__ import annotations

import ast
import asyncio
import configparser
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
from nats import errors
from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol import parser
from nats.protocol.parser import Parser

from atmo_farm.streams import nats, nats_client, nats_link, nats_parser, nats_transport
from atmo_farm.streams.nats_client import CONGESTED_BYTES, OFFLINE_BYTES, WireClient
from atmo_farm.streams.nats_transport import WireTransport
from tests.guests import ROOT
from tests.streams import Events, ScriptedServer, run, scripted_server

PRIVATE = {
    "_auth_configured", "_error_cb", "_flusher_task", "_max_payload", "_pending",
    "_pending_data_size", "_ping_interval_task", "_pings_outstanding", "_pongs", "_process_op_err", "_ps",
    "_reading_task", "_reconnection_task", "_send_ping", "_server_info", "_sid", "_status", "_transport",
}  # fmt: skip
"""Of Client: what is read, written and called."""

OVERRIDDEN = {
    "_connect_to_server": ["self", "s"],
    "_process_connect_init": ["self"],
    "_process_err": ["self", "err_msg"],
    "_process_info": ["self", "info", "initial_connection"],
    "_process_msg": ["self", "sid", "subject", "reply", "data", "headers"],
    "_process_op_err": ["self", "e"],
    "_process_pong": ["self"],
    "_send_ping": ["self", "future"],
}
"""Of Client: what nats-py calls and is our own, with its parameters."""


def private_names(module: object) -> set[str]:
    """Attributes with an underscore that the module's code looks up on anything."""
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def of_nats_py(names: set[str]) -> set[str]:
    """Those that a client of nats-py has."""
    return {name for name in names if hasattr(Client(), name)}


def test_the_version_range() -> None:
    """What is installed lies in it, and setup.cfg names the one that these tests were written for."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert "nats-py[nkeys] >=2.16,<3" in config["options"]["install_requires"].splitlines()
    assert (2, 16) <= tuple(int(part) for part in version("nats-py").split(".")[:2]) < (3,)


def test_every_private_name_is_pinned() -> None:
    """What the code uses of a client is what stands here, and all of it stands in the module's docstring."""
    modules = (nats_client, nats_parser, nats_transport, nats, nats_link)
    used = of_nats_py(set().union(*map(private_names, modules)))
    assert used == PRIVATE | (OVERRIDDEN.keys() & used)
    documented = nats_client.__doc__ or ""
    assert [name for name in sorted(PRIVATE | OVERRIDDEN.keys()) if name not in documented] == []
    assert Path(__file__).name in documented and (ROOT / "tests/unit/streams" / Path(__file__).name).exists()


@pytest.mark.parametrize("name", sorted(PRIVATE))
def test_a_client_has(name: str) -> None:
    """Each name, from the start."""
    assert hasattr(Client(), name)


@pytest.mark.parametrize("name", sorted(OVERRIDDEN))
def test_an_overridden_method(name: str) -> None:
    """A coroutine with these parameters, in nats-py and here."""
    for cls in (Client, WireClient):
        method = getattr(cls, name)
        assert inspect.iscoroutinefunction(method)
        assert list(inspect.signature(method).parameters) == OVERRIDDEN[name], cls


def test_the_forms_of_a_clients_state() -> None:
    """A list of commands and its size in bytes; a list of PONG waiters; numbers for the status."""
    client = Client()
    assert (client._pending, client._pending_data_size, client._pongs, client._pings_outstanding) == ([], 0, [], 0)
    assert client._sid == 0 and client._server_info == {} and client._transport is None
    assert (client._status, Client.CONNECTED, Client.CLOSED) == (Client.DISCONNECTED, 1, 2)
    assert client._reading_task is client._ping_interval_task is client._flusher_task is client._reconnection_task
    assert isinstance(client._ps, Parser) and client.max_payload == client._max_payload


def test_the_parser() -> None:
    """Its state, its buffer, its words for where it stands; `parse` takes a chunk."""
    made = Parser(None)
    assert (made.nc, made.buf, made.needed, made.state) == (None, bytearray(), 0, parser.AWAITING_CONTROL_LINE)
    assert parser.AWAITING_MSG_PAYLOAD == 2 and parser.PERMISSIONS_ERR == "permissions violation"
    assert list(inspect.signature(Parser.parse).parameters) == ["self", "data"]
    assert list(inspect.signature(Parser.reset).parameters) == ["self"]


def test_the_transport() -> None:
    """A stream's reader and writer; `connect` by uri, buffer size and timeout."""
    made = TcpTransport()  # type: ignore[no-untyped-call]
    assert made._io_writer is None and made._io_reader is None
    assert list(inspect.signature(TcpTransport.connect).parameters) == ["self", "uri", "buffer_size", "connect_timeout"]
    tls = list(inspect.signature(WireTransport.connect_tls).parameters)
    assert list(inspect.signature(TcpTransport.connect_tls).parameters) == tls
    for name in ("write", "writelines"):
        assert list(inspect.signature(getattr(TcpTransport, name)).parameters) == ["self", "payload"]
    for name in ("connect_tls", "drain", "wait_closed"):
        assert inspect.iscoroutinefunction(getattr(TcpTransport, name))


def test_a_subscription_and_a_server() -> None:
    """`subscribe` counts ids up and keeps what it replays after a reconnect; a server notes its last attempt."""
    assert "last_attempt" in inspect.signature(Srv).parameters

    async def body() -> None:
        async with scripted_server() as server:
            client = WireClient()
            await client.connect(server.url)
            first = await client.listen("a", "", lambda *_: None)
            second = await client.listen("b", "g", lambda *_: None)
            assert isinstance(first, Subscription)
            assert (first._id, second._id, client._sid) == (1, 2, 2)
            assert list(client._subs) == [1, 2] and list(client.sinks) == [b"1", b"2"]
            await client.close()

    run(body())


async def connected(server: ScriptedServer, events: Events | None = None, **arguments: object) -> WireClient:
    """A client of this server that reconnects at once, for ever."""
    client, told = WireClient(), events or Events()

    async def error(error: Exception) -> None:
        told.waiting("", str(error))

    async def reconnected() -> None:
        told.connected()

    arguments = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.01, **arguments}
    await client.connect(server.url, error_cb=error, reconnected_cb=reconnected, **arguments)  # type: ignore[arg-type]
    return client


def test_a_flush_confirms_what_was_sent_before() -> None:
    """SUB, PUB and UNSUB stand before the PING on the wire (nats-py alone writes the PING first)."""

    async def body() -> list[bytes]:
        async with scripted_server() as server:
            client = await connected(server)
            peer = await server.peer(0)
            subscription = await client.listen("a", "g", lambda *_: None)
            await client.flush()
            client.send(b"PUB b 0\r\n\r\n")
            await client.flush()
            await subscription.unsubscribe()
            await client.flush()
            await client.close()
            return [line.split()[0] for line in peer.lines if line][1:]

    assert run(body()) == [b"PING", b"SUB", b"PING", b"PUB", b"PING", b"UNSUB", b"PING"]


def test_commands_of_one_turn_are_one_write() -> None:
    """In their order, with those of nats-py."""

    async def body() -> None:
        async with scripted_server() as server:
            client = await connected(server)
            for number in range(100):
                assert client.send(b"PUB a 3\r\n%03d\r\n" % number)
            assert client.unsent() == 100 * 14
            await client.flush()
            peer = await server.peer(0)
            assert [line for line in peer.lines if len(line) == 3] == [b"%03d" % number for number in range(100)]
            assert client.unsent() == 0
            await client.close()

    run(body())


def test_what_is_published_without_a_connection() -> None:
    """Kept up to 8 MiB and sent in order when there is one; beyond that `send` says no."""

    async def body() -> None:
        async with scripted_server() as server:
            client = await connected(server, reconnect_time_wait=0.1)
            (await server.peer(0)).hang_up()
            while client.is_connected:
                await asyncio.sleep(0)
            command = b"PUB a 32768\r\n" + b"x" * 32768 + b"\r\n"
            taken = 0
            while client.send(command):
                taken += 1
            assert taken == OFFLINE_BYTES // len(command)
            assert client.send(b"PUB b 2\r\nok\r\n")
            peer = await server.peer(1)
            await peer.until(lambda: peer.got(b"ok") == 1)
            assert peer.got(b"PUB a") == taken
            assert client.send(command)
            await client.close()

    run(body())


def test_a_peer_that_does_not_read() -> None:
    """Publishers wait once 1 MiB is unsent, and go on when it reads again or is gone."""

    async def body() -> None:
        got_stuck = asyncio.Event()
        release = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'INFO {"server_id":"x","version":"2.11.0","max_payload":99999999}\r\n')
            await reader.readuntil(b"PING\r\n")
            writer.write(b"PONG\r\n")
            got_stuck.set()
            await release.wait()
            while await reader.read(1 << 20):
                pass
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 10)
        client = WireClient()
        await client.connect(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await got_stuck.wait()
        command = b"PUB a 1000000\r\n" + b"x" * 1_000_000 + b"\r\n"
        sent = 0
        writable: asyncio.Future[None] | None = None
        while sent < 200 and (writable is None or writable.done()):
            assert client.send(command)
            sent += 1
            if client.congested:
                writable = asyncio.ensure_future(client.writable())
                await asyncio.wait({writable}, timeout=0.1)
        assert client.unsent() >= CONGESTED_BYTES and sent < 30
        assert writable is not None and not writable.done()
        release.set()
        await writable
        while client.congested:
            await client.writable()
        assert client.unsent() < CONGESTED_BYTES
        await client.close()
        server.close()

    run(body())


def test_a_pong_whose_waiter_has_given_up() -> None:
    """The reader lives on, and the next flush has its own answer."""

    async def body() -> None:
        async with scripted_server() as server:
            client = await connected(server)
            peer = await server.peer(0)
            peer.answers_pings = False
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.flush(), 0.05)
            peer.send(b"PONG\r\nPONG\r\n")
            peer.answers_pings = True
            await client.flush()
            assert client.is_connected and len(server.peers) == 1
            await client.close()

    run(body())


@pytest.mark.parametrize("words", ["Maximum Connections Exceeded", "Stale Connection", "Authorization Violation"])
def test_an_error_of_the_server_ends_in_a_reconnect(words: str) -> None:
    """Whatever it says, and it is kept as the cause: nats-py alone would close for good."""

    async def body() -> Exception | None:
        async with scripted_server() as server:
            events = Events()
            client = await connected(server, events)
            (await server.peer(0)).send(f"-ERR '{words}'\r\n".encode())
            await events.until_told("connected")
            assert client.is_connected and len(server.peers) == 2
            await client.close()
            return client.cause

    assert str(run(body())) == f"nats: {words.lower()}"


def test_a_permission_violation_does_not_end_the_connection() -> None:
    """It is told, no more."""

    async def body() -> list[str]:
        async with scripted_server() as server:
            events = Events()
            client = await connected(server, events)
            (await server.peer(0)).send(b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n")
            await events.until(lambda: bool(events.told))
            await client.flush()
            assert len(server.peers) == 1
            await client.close()
            return events.told

    assert run(body()) == ['waiting: nats: permissions violation for publish to "x"']


def test_the_rest_of_an_old_connection_is_not_read_as_the_new_one() -> None:
    """Half a message after the server's last words, then a new connection: its first message is whole."""

    async def body() -> None:
        async with scripted_server() as server:
            events, got = Events(), []
            client = await connected(server, events)
            await client.listen("a", "", lambda *message: got.append(message))
            await client.flush()
            (await server.peer(0)).send(b"-ERR 'Slow Consumer'\r\nMSG a 1 100\r\nhalf of it")
            peer = await server.peer(1)
            await peer.until(lambda: peer.got(b"SUB") == 1)
            peer.send(b"MSG a 1 5\r\nwhole\r\n")
            await events.until_told("connected")
            await client.flush()
            assert got == [(b"a", b"", b"", b"whole")]
            await client.close()

    run(body())


def test_limits_that_the_server_changes() -> None:
    """A later INFO sets max_payload: an account's own limit comes after the login."""

    async def body() -> None:
        async with scripted_server() as server:
            client = await connected(server)
            assert client.max_payload == 1 << 20 and client.takes_headers
            (await server.peer(0)).send(b'INFO {"max_payload":100}\r\n')
            await client.flush()
            assert client.max_payload == 100
            await client.close()

    run(body())


def test_attempts_that_fail_leave_no_connection_open() -> None:
    """A server that takes connections and stays silent: each new attempt drops the one before."""

    async def body() -> None:
        async with scripted_server() as server:
            client = await connected(server, connect_timeout=0.02)
            silent, gone = 0, 0

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal silent, gone
                silent += 1
                try:
                    await reader.read()
                except ConnectionError:
                    pass
                gone += 1
                writer.close()

            server.serve_next = serve
            (await server.peer(0)).hang_up()
            while silent < 8:
                await asyncio.sleep(0.01)
            assert silent - gone <= 2
            await client.close()

    run(body())


@pytest.mark.parametrize("half", [b"", b"INFO {}\r\n", b"INFO 5\r\n", b"INFO", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_answers_there_is_no_server(half: bytes) -> None:
    """Silence that ends, half a login, another protocol: one more attempt, and then it is there."""

    async def body() -> list[str]:
        async with scripted_server() as server:
            events = Events()

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(half)
                server.serve_next = None
                await asyncio.sleep(0.01)
                writer.close()

            server.serve_next = serve
            client = await connected(server, events)
            assert client.is_connected and len(server.peers) == 1
            server.serve_next = serve
            (await server.peer(0)).hang_up()
            await events.until_told("connected")
            await client.flush()
            assert len(server.peers) == 2
            await client.close()
            return events.told

    assert len([told for told in run(body()) if told.startswith("waiting")]) >= 2


def test_abort_ends_everything_at_once() -> None:
    """In any state: no task and no connection is left."""

    async def body() -> None:
        async with scripted_server() as server:
            before = asyncio.all_tasks()
            client = await connected(server)
            peer = await server.peer(0)
            client.abort()
            await peer.gone.wait()
            while asyncio.all_tasks() - before:
                await asyncio.sleep(0.001)
            assert client.is_closed and not client.is_connected

    run(body())


def test_abort_before_a_connection() -> None:
    """Nothing to end is fine, too."""

    async def body() -> None:
        WireClient().abort()

    run(body())


def test_a_transport_ends_at_once() -> None:
    """`close` drops what is unsent; `wait_closed` returns though the peer never reads, and has no errors to tell."""

    async def body() -> None:
        transport = WireTransport()  # type: ignore[no-untyped-call]
        transport.close()
        await transport.wait_closed()
        assert transport.unsent() == 0

    run(body())


def test_a_connection_that_has_just_ended() -> None:
    """uvloop closes it before its reader tells: what is sent in between is lost with it, and nobody's error."""

    async def body() -> None:
        async with scripted_server() as server:
            events = Events()
            client = await connected(server, events)
            await server.peer(0)
            assert client._transport is not None
            client._transport.close()
            client.send(b"PUB a 0\r\n\r\n")
            confirming = asyncio.ensure_future(client.confirm())
            await events.until_told("connected")
            assert not confirming.done()
            confirming.cancel()
            await client.confirm()
            await client.close()

    run(body())


def test_errors_that_a_reconnect_survives() -> None:
    """nats-py reconnects after these kinds, and only these; the parser's one is among them."""
    assert issubclass(errors.ProtocolError, errors.Error)
    source = inspect.getsource(Client._attempt_reconnect) + inspect.getsource(Client.connect)
    assert source.count("except (OSError, errors.Error, asyncio.TimeoutError)") == 2
    assert "except errors.ProtocolError:" in inspect.getsource(Client._read_loop)
