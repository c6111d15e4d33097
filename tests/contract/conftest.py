"""Tests of this folder may be coroutines: they run on the farm's own kind of loop."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from atmo_farm.streams.kafka import drivers
from tests.kafka_clients import Clients
from tests.servers.kafka import KafkaServer
from tests.streams import run

pytest.register_assert_rewrite("tests.contract")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine; others are pytest's."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}), patience_s=100.0)
    return True


@pytest.fixture(params=["kafka-python", "librdkafka"])
def clients(request: pytest.FixtureRequest, kafka_server: KafkaServer) -> Iterator[Clients]:
    clients = Clients(drivers.choose(request.param), kafka_server)
    yield clients
    for made in clients.made:
        made.close()
