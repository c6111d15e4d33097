"""How a connection to Redis begins: addresses, users, databases, TLS, and the reasons when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest

from atmo_farm.datasource.errors import Unreachable
from atmo_farm.datasource.redis import RedisCache
from atmo_farm.datasource.redis_options import options
from atmo_farm.directive.connections import RedisConnection, Tls
from atmo_farm.errors import CannotStart
from tests.contract.asking import Asker, down, outcome, ready
from tests.servers import certificates
from tests.servers import redis as configurations
from tests.servers.fake_redis import fake_redis
from tests.servers.redis import RedisServer
from tests.streams import run

StartRedis = Callable[[str], RedisServer]
SECRET = "s3cret:of/the@farm"


@contextlib.asynccontextmanager
async def opened(connection: RedisConnection) -> AsyncIterator[RedisCache]:
    cache = RedisCache(connection)
    await cache.open()
    try:
        yield cache
    finally:
        await cache.close()


def works(connection: RedisConnection) -> None:
    async def body() -> None:
        async with opened(connection) as cache:
            await ready(cache)
            await Asker(cache).set("key", b"value")
            assert await Asker(cache).get("key") == b"value"

    run(body())


def why_not(connection: RedisConnection) -> str:
    async def body() -> str:
        async with opened(connection) as cache:
            reason = await down(cache)
            assert reason in str(await outcome(Asker(cache).get("key")))
            with pytest.raises(Unreachable) as caught:
                await cache.ping()
            assert str(caught.value) == reason
            return reason

    return run(body())


def test_an_address_has_a_scheme_or_none(redis_server: RedisServer) -> None:
    works(redis_server.connection(server_address=redis_server.address))
    works(redis_server.connection(server_address=f"redis://{redis_server.address}"))
    works(redis_server.connection(server_address=f"localhost:{redis_server.port}"))


def test_an_address_may_be_a_unix_socket(redis_server: RedisServer) -> None:
    works(redis_server.connection(server_address=f"unix://{redis_server.socket}"))
    works(redis_server.connection(server_address=str(redis_server.socket)))


def test_each_database_has_its_own_keys(redis_server: RedisServer) -> None:
    async def body() -> None:
        key = "number of the database"
        in_address = redis_server.connection(server_address=f"redis://{redis_server.address}/3")
        async with (
            opened(redis_server.connection(database=3)) as three,
            opened(redis_server.connection(database=4)) as four,
            opened(in_address) as three_too,
        ):
            for cache in (three, four, three_too):
                await ready(cache)
            await Asker(three).set(key, b"3")
            await Asker(four).set(key, b"4")
            assert [await Asker(cache).get(key) for cache in (three, four, three_too)] == [b"3", b"4", b"3"]

    run(body())


def test_a_prefix_keeps_applications_apart(redis_server: RedisServer) -> None:
    async def body() -> None:
        async with (
            opened(redis_server.connection(key_prefix="ä:")) as one,
            opened(redis_server.connection(key_prefix="")) as other,
        ):
            await ready(one)
            await ready(other)
            await Asker(one).set("prefixed", b"1")
            assert await Asker(other).get("ä:prefixed") == b"1"
            assert await outcome(Asker(other).get("prefixed")) == "FAILED: key not found"

    run(body())


def test_a_password_lets_in(start_redis: StartRedis) -> None:
    server = start_redis(configurations.password(SECRET))
    works(server.connection(password=SECRET))
    works(server.connection(server_address=f"redis://:s3cret%3Aof%2Fthe%40farm@{server.address}"))
    assert why_not(server.connection()) == "it asks for a password (NOAUTH)"
    assert why_not(server.connection(password="wrong")) == "it does not accept the user and password (WRONGPASS)"


def test_a_user_needs_no_more_than_get_and_set(start_redis: StartRedis) -> None:
    server = start_redis(configurations.user("farm", SECRET, "~app:* +get +set"))
    works(server.connection(username="farm", password=SECRET, key_prefix="app:"))
    assert why_not(server.connection(username="other", password=SECRET)).endswith("(WRONGPASS)")

    async def body() -> None:
        async with opened(server.connection(username="farm", password=SECRET)) as cache:
            await ready(cache)
            failed = await outcome(Asker(cache).get("key"))
            assert failed == "FAILED: redis: its user has no permission for this (NOPERM)"

    run(body())


def test_a_database_that_is_not_there_is_named(redis_server: RedisServer) -> None:
    assert why_not(redis_server.connection(database=99)) == "it has no database 99 (ERR)"


def test_a_server_that_takes_no_more_clients_says_so(start_redis: StartRedis) -> None:
    server = start_redis("maxclients 1")

    async def body() -> None:
        async with opened(server.connection()) as first:
            await ready(first)
            async with opened(server.connection()) as second:
                assert await down(second) == "it has as many clients as it takes"

    run(body())


def test_nobody_listens(tmp_path: Path) -> None:
    assert why_not(RedisConnection("127.0.0.1:1")) == "connection refused"
    assert why_not(RedisConnection(f"unix://{tmp_path}/nobody.sock")) == "no such file or directory"
    assert why_not(RedisConnection("no-such-host.invalid:6379")) != ""
    assert why_not(RedisConnection("a..b:6379")) != ""


def test_a_server_that_never_answers_is_given_up_within_the_connect_timeout() -> None:
    async def body() -> None:
        async with fake_redis() as fake:
            fake.greeting = {b"PING": b"", b"CLIENT": b""}
            async with opened(fake.connection()) as cache, asyncio.timeout(2):
                assert await down(cache) == "no answer in time"

    run(body())


def test_a_server_that_speaks_something_else(redis_server: RedisServer) -> None:
    async def body() -> None:
        async with fake_redis() as fake:
            fake.greeting = {b"CLIENT": b"HTTP/1.1 400 Bad Request\r\n\r\n"}
            async with opened(fake.connection()) as cache:
                assert await down(cache) == "it does not speak Redis's protocol"

    run(body())


def test_a_server_that_loads_its_data_is_waited_for() -> None:
    async def body() -> None:
        async with fake_redis() as fake:
            fake.greeting[b"PING"] = b"-LOADING Redis is loading the dataset in memory\r\n"
            async with opened(fake.connection()) as cache:
                assert await down(cache) == "it is loading its data (LOADING)"
                fake.greeting[b"PING"] = b"+PONG\r\n"
                async with asyncio.timeout(2):
                    await ready(cache)

    run(body())


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("papers"))


def test_tls_by_scheme_or_by_key(start_redis: StartRedis, papers: Path) -> None:
    server = start_redis(configurations.tls(papers))
    trusting = Tls(ca_file=str(papers / "ca.pem"))
    works(server.connection(tls=trusting))
    works(server.connection(server_address=f"rediss://localhost:{server.port}", tls=trusting))
    works(server.connection(tls=attrs.evolve(trusting, server_name="localhost")))
    reason = why_not(server.connection(server_address=f"rediss://{server.address}"))
    assert reason.startswith("the server's certificate is not accepted: ")
    reason = why_not(server.connection(tls=attrs.evolve(trusting, server_name="elsewhere.example")))
    assert reason.startswith("the server's certificate is not accepted: ")
    assert why_not(server.connection()) != ""


def test_tls_with_a_client_certificate(start_redis: StartRedis, papers: Path) -> None:
    server = start_redis(configurations.tls(papers, verify=True))
    ca, cert, key = (str(papers / name) for name in ("ca.pem", "client.pem", "client.key"))
    works(server.connection(tls=Tls(ca_file=ca, cert_file=cert, key_file=key)))
    assert why_not(server.connection(tls=Tls(ca_file=ca))) != ""


def test_a_server_without_tls_gets_no_password(redis_server: RedisServer, papers: Path) -> None:
    tls = Tls(ca_file=str(papers / "ca.pem"))
    assert why_not(redis_server.connection(password=SECRET, tls=tls)) != ""


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"server_address": "http://host"}, "serverAddress has an unknown scheme"),
        ({"server_address": "/run/redis.sock", "tls": Tls()}, "tls: a Unix socket has no TLS"),
        ({"server_address": "host", "tls": Tls(ca_file="/nowhere/ca.pem")}, "tls: cannot use /nowhere/ca.pem"),
    ],
)
def test_keys_that_cannot_be_used_are_named(keys: dict[str, object], problem: str) -> None:
    with pytest.raises(CannotStart, match=f"connections.redis: {problem}"):
        options(RedisConnection(**keys), "client")  # type: ignore[arg-type]


def test_a_key_file_under_a_password_is_refused_without_asking_for_it(papers: Path) -> None:
    encrypted = certificates.encrypt_key(papers / "client.key")
    tls = Tls(ca_file=str(papers / "ca.pem"), cert_file=str(papers / "client.pem"), key_file=str(encrypted))
    with pytest.raises(CannotStart, match="tls: cannot use"):
        options(RedisConnection("host", tls=tls), "client")


def test_no_secret_is_told(start_redis: StartRedis, caplog: pytest.LogCaptureFixture) -> None:
    """Also not by a server that quotes what it was sent."""
    caplog.set_level(logging.DEBUG)
    server = start_redis(configurations.password("another"))
    reasons = [
        why_not(server.connection(password=SECRET)),
        why_not(server.connection(server_address=f"redis://user:s3cret@{server.address}")),
    ]

    async def body() -> str:
        async with fake_redis() as fake:
            quote = f"-ERR unknown command 'AUTH', with args beginning with: '{SECRET}'\r\n".encode()
            fake.greeting[b"AUTH"] = quote
            async with opened(RedisConnection(f"127.0.0.1:{fake.port}", password=SECRET)) as cache:
                return await down(cache)

    reasons.append(run(body()))
    told = " ".join((*reasons, caplog.text, repr(options(server.connection(password=SECRET), "client"))))
    assert "s3cret" not in told
