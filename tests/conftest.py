"""Fixtures that all tests share: real servers, started once where they keep no state between tests."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.servers import certificates
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import MariaDbServer
from tests.servers.nats import NatsServer, jetstream
from tests.servers.postgresql import PostgresServer
from tests.servers.redis import RedisServer

pytest_plugins = ["tests.turns"]

# The machine has other things to do: how long one example takes says nothing.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the fault rows in their full form, as scripts/soak does")
    parser.addoption("--write-docs", action="store_true", help="write the pages that tests generate")


def pytest_configure() -> None:
    """A shell starts its background jobs with SIGINT ignored, and farms would inherit that: tests end them by it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def amount(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`amount(10, 100)`: how much of it, in the suite and in scripts/soak."""
    in_full = bool(request.config.getoption("--soak"))
    return lambda short, full: full if in_full else short


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str, object], None]:
    """`figure("slowest, s", 0.4)`: what a fault row has measured, for docs/soak.md."""
    return lambda name, value: record_property(name, f"{value:.3g}" if isinstance(value, float) else value)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A plain nats-server for the whole run: use subjects of your own, do not stop it."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A Kafka broker with all its listeners for the whole run: use topics and groups of your own, do not stop it."""
    folder = tmp_path_factory.mktemp("kafka")
    patient = "broker.session.timeout.ms=9000"  # it is never killed; a busy machine must not make it lose itself
    server = KafkaServer(folder / "server", patient, certificates.make(folder / "certificates"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_kafka(tmp_path: Path) -> Iterator[Callable[[str], KafkaServer]]:
    """`start_kafka(config="")` starts a broker for this test alone: it may be killed, paused and restarted."""
    servers: list[KafkaServer] = []

    def start(config: str = "") -> KafkaServer:
        server = KafkaServer(tmp_path / f"kafka-{len(servers)}", config)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole run: make tables with names of your own, do not stop it."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDbServer]:
    """A MariaDB server for the whole run: make tables with names of your own, do not stop it."""
    server = MariaDbServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def start_nats(tmp_path: Path) -> Iterator[Callable[[str], NatsServer]]:
    """`start_nats(config="")` starts a server for this test alone: it may be killed, paused and restarted."""
    servers: list[NatsServer] = []

    def start(config: str = "") -> NatsServer:
        server = NatsServer(tmp_path / f"nats-{len(servers)}", config)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def start_jetstream(start_nats: Callable[[str], NatsServer], tmp_path: Path) -> Callable[[], NatsServer]:
    """`start_jetstream()` starts a server for this test alone with JetStream, which keeps its files over a restart."""
    return lambda: start_nats(jetstream(tmp_path / "jetstream"))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A plain redis-server for the whole run: use keys of your own, do not stop it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[[str], RedisServer]]:
    """`start_redis(config="")` starts a server for this test alone: it may be killed, paused and restarted."""
    servers: list[RedisServer] = []

    def start(config: str = "") -> RedisServer:
        server = RedisServer(tmp_path / f"redis-{len(servers)}", config)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()
