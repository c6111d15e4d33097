"""How PostgreSQL's backend connects: settings, TLS, Unix sockets, several hosts, and connections that end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmo_farm import clock
from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed, TransientFailure, Unreachable
from atmo_farm.datasource.postgresql import PostgresBackend
from atmo_farm.directive.connections import Tls
from tests.contract.kit import VALUE_CANARY, Database, fails, harmless
from tests.contract.test_database_postgresql import SNIPPETS, database
from tests.servers import certificates
from tests.servers.postgresql import PASSWORD, PostgresServer
from tests.servers.process import free_port


async def setting(place: Database, name: str, **changes: object) -> object:
    """What a session of ours has."""
    async with place.connected(**changes) as session:
        return await session.value("SELECT current_setting(?)", name)


async def test_settings(postgresql: PostgresServer) -> None:
    """Those of the connection string hold for the session, and the application has its name."""
    query = "search_path=pg_temp,public&TimeZone=Asia/Tokyo&datestyle=ISO,DMY&work_mem=5MB"
    place = database(postgresql.url("atmo", PASSWORD, query=query))
    assert await setting(place, "search_path") == "pg_temp,public"
    assert await setting(place, "work_mem") == "5MB"
    assert await setting(place, "application_name") == "atmo-farm"
    assert await setting(place, "client_connection_check_interval") == "1s"
    async with place.connected() as session:
        moment = "SELECT '2026-01-31 12:00:00+00'::timestamptz AS a, '2026-01-31 12:00:00'::timestamptz AS b"
        assert await session.rows(moment) == [{"a": "2026-01-31T12:00:00Z", "b": "2026-01-31T03:00:00Z"}]
    named = database(postgresql.url("atmo", PASSWORD, query="application_name=mine&options=-c%20work_mem%3D6MB"))
    assert await setting(named, "application_name") == "mine"
    assert await setting(named, "work_mem") == "6MB"
    backend = PostgresBackend(place.connection, Limits(), application="com.acme.orders")
    async with place.another(backend) as session:
        assert await session.value("SELECT current_setting('application_name')") == "com.acme.orders"
    await backend.close()


@pytest.mark.alone
async def test_a_statement_timeout_of_the_connection_string(postgresql: PostgresServer) -> None:
    """It holds where it is shorter than the deadline."""
    async with database(postgresql.url("atmo", PASSWORD, query="statement_timeout=200")).connected() as session:
        began = clock.monotonic()
        await fails(TransientFailure, session.json("SELECT pg_sleep(20)"))
        assert 0.18 <= clock.monotonic() - began <= 0.4
        began = clock.monotonic()
        await fails(TransientFailure, session.json("SELECT pg_sleep(20)", within_s=0.1))
        assert clock.monotonic() - began <= 0.18


async def test_strings_are_standard(postgresql: PostgresServer) -> None:
    """Also where a role is told otherwise: values and placeholders are cut by the standard's rules."""
    async with database(postgresql.url()).connected() as admin:
        await admin.ddl("CREATE ROLE bent LOGIN SUPERUSER PASSWORD 'x'")
        await admin.ddl("ALTER ROLE bent SET standard_conforming_strings = off")
        await admin.ddl("ALTER ROLE bent SET client_encoding = 'LATIN1'")
        await admin.ddl("ALTER ROLE bent SET bytea_output = 'escape'")
        await admin.ddl("ALTER ROLE bent SET datestyle = 'German'")
    bent = database(postgresql.url("bent", "x", query="standard_conforming_strings=off&options=-c%20work_mem%3D6MB"))
    async with bent.connected() as session:
        assert await session.value("SELECT current_setting('work_mem')") == "6MB"
        assert await session.value("SELECT current_setting('standard_conforming_strings')") == "on"
        dates = "'2026-01-31'::date AS d, '2026-01-31 10:00'::timestamp AS e"
        assert await session.rows(
            f"SELECT 'a\\' AS a, ?::text AS b, ?::bytea AS c, {dates}", "\\' \\ 中", b"\xff\\'"
        ) == [{"a": "a\\", "b": "\\' \\ 中", "c": "/1wn", "d": "2026-01-31", "e": "2026-01-31T10:00:00Z"}]


async def test_a_database_without_an_encoding(postgresql: PostgresServer) -> None:
    """SQL_ASCII keeps any bytes as text; what is no UTF-8 is an error, and the connection goes on."""
    async with database(postgresql.url("atmo", PASSWORD, "ascii")).connected() as session:
        assert await session.value("SELECT ?::text", "ä中") == "ä中"
        bad = await fails(CallFailed, session.rows("SELECT convert_from('\\xff'::bytea, 'SQL_ASCII') AS a"))
        assert str(bad) == 'invalid byte sequence for encoding "UTF8": 0xff'
        assert await session.value("SELECT 1") == 1


async def test_unix_socket(postgresql: PostgresServer) -> None:
    """Its folder and port; answers over the caps are noticed there, too."""
    place = database(f"host={postgresql.folder} port={postgresql.port} user=trusted dbname=atmo")
    async with place.connected() as session:
        assert await session.value("SELECT inet_server_addr()") is None
        await fails(CallFailed, session.rows(SNIPPETS.wide_row.format(size=64 << 20)))
    absent = database("host=/nonexistent user=trusted dbname=atmo").backend()
    error = await fails(Unreachable, absent.connection().open())
    assert str(error) == "/nonexistent: No such file or directory"


async def test_several_hosts(postgresql: PostgresServer) -> None:
    """The next is tried when one refuses, does not resolve, or does not answer within its part of the time."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        names = f"localhost:{free_port()},nobody.invalid,127.0.0.1:{deaf.getsockname()[1]},localhost:{postgresql.port}"
        place = database(f"postgres://trusted@{names}/atmo?connect_timeout=2")
        began = clock.monotonic()
        async with place.connected() as session:
            assert await session.value("SELECT 1") == 1
        assert clock.monotonic() - began <= 2


async def test_hostaddr(postgresql: PostgresServer) -> None:
    """A name that stands for nothing, and the address beside it."""
    place = database(f"host=db.invalid hostaddr=127.0.0.1 port={postgresql.port} user=trusted dbname=atmo")
    async with place.connected() as session:
        assert await session.value("SELECT 1") == 1


@pytest.fixture(scope="module")
def certificate_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_server(certificate_folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tls=certificate_folder)
    server.start()
    yield server
    server.remove()


async def test_tls(tls_server: PostgresServer, certificate_folder: Path, tmp_path: Path) -> None:
    """`tls` in the Directive means that the server's certificate and name are checked."""
    ca = str(certificate_folder / "ca.pem")
    place = database(tls_server.url("atmo", PASSWORD))
    encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    for tls in (Tls(ca_file=ca), Tls(ca_file=ca, server_name="localhost"), None):
        async with place.connected(tls=tls) as session:
            assert await session.value(encrypted) is True
            assert len(str(await session.value("SELECT repeat('x', 3000000)"))) == 3_000_000
            assert len(str(await session.value("SELECT ?::text", "y" * 3_000_000))) == 3_000_000
    other = certificates.make(tmp_path / "other")
    refused = {
        "certificate verify failed": Tls(ca_file=str(other / "ca.pem")),
        "does not match host name": Tls(ca_file=ca, server_name="db.example.com"),
        "self-signed certificate": Tls(),
        "nowhere.pem": Tls(ca_file="/nowhere.pem"),
    }
    for words, tls in refused.items():
        error = await fails(Unreachable, place.backend(tls=tls).connection().open())
        harmless(error, PASSWORD)
        assert words in str(error) or "certificate" in str(error), error
    async with database(
        tls_server.url("atmo", PASSWORD, query=f"sslmode=verify-ca&sslrootcert={ca}")
    ).connected() as one:
        assert await one.value(encrypted) is True


@pytest.mark.alone
async def test_a_server_process_that_ends(postgresql: PostgresServer) -> None:
    """At whatever moment: the next statement fails at once or is done, and is_lost knows soon."""
    backend = database(postgresql.url("atmo", PASSWORD)).backend()
    place = database(postgresql.url("atmo", PASSWORD))
    for turns in range(60):
        async with place.another(backend) as session:
            pid = await session.value("SELECT pg_backend_pid()")
            assert isinstance(pid, int)
            os.kill(pid, signal.SIGTERM)
            for _ in range(turns % 6):
                await asyncio.sleep(0)
            began = clock.monotonic()
            try:
                assert await session.value("SELECT 1") == 1
            except TransientFailure as error:
                harmless(error, VALUE_CANARY)
                assert session.connection.broken
            assert clock.monotonic() - began <= 0.5
            while not session.connection.is_lost():
                await asyncio.sleep(0)
    await backend.close()


async def test_nothing_is_left_behind(postgresql: PostgresServer) -> None:
    """Connections that were opened, refused, given up or lost keep no descriptor."""
    place = database(postgresql.url("atmo", PASSWORD))
    wrong = database(postgresql.url("atmo", "wrong"))

    async def round_() -> None:
        async with place.connected() as session:
            await session.value("SELECT 1")
            await fails(CallFailed, session.rows("SELECT * FROM no_such_table"))
            backend = wrong.backend()
            await fails(Unreachable, backend.connection().open())
            opening = asyncio.create_task(session.backend.connection().open())
            for _ in range(5):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait({opening})

    await round_()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(10):
        await round_()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
