"""Farms for the system tests: each test has its own, on the shared nats-server, with subjects of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.farm import Farm, alive, nats_directive, write_app, write_directive
from tests.servers.nats import NatsServer

GUESTS = tuple(("c", name) for name in ("hello", "upper-case", "looping", "failing"))

KAFKA_DRIVERS = ("kafka-python", "librdkafka")

_numbers = itertools.count()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with a `driver` runs with each client library of Kafka; in the suite a fault row has only the one that
    its marker says (`short=`), and each library has its rows."""
    if "driver" in metafunc.fixturenames:
        row = metafunc.definition.get_closest_marker("fault")
        one = row is not None and not metafunc.config.getoption("soak")
        metafunc.parametrize("driver", (row.kwargs["short"],) if one else KAFKA_DRIVERS)


class TestFarm(Farm):
    """A farm whose handlers are named, and whose processes are found by handler."""

    __test__ = False

    def __init__(self, folder: Path, url: str, *arguments: str, environ: dict[str, str] | None = None):
        self.url = url
        self.prefix = f"sys{next(_numbers)}"
        write_app(folder, "handlers: []\n", *GUESTS)
        super().__init__(folder, *arguments, environ=environ)

    def serve(self, **handlers: str) -> TestFarm:
        """Write the Directive: name → its step, and more lines of YAML after it (`"fn: hello\\nworkers: 2"`)."""
        entries = []
        for name, text in handlers.items():
            step, _, more = text.partition("\n")
            entries.append(f"name: {name}\nresource: {self.subject(name)}\nsteps: [{{{step}}}]\n{more}")
        write_directive(self.app, nats_directive(self.url, *entries))
        return self

    def subject(self, name: str) -> str:
        """Where this handler listens."""
        return f"{self.prefix}.{name}"

    def workers(self, handler: str = "") -> list[int]:
        """The pids of its consumers, or of all."""
        found = []
        for pid in self.children():
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if alive(pid) and name.startswith(f"atmo {handler}") and name != "atmo helper":
                found.append(pid)
        return sorted(found)

    def logged(self, message: str, **fields: object) -> int:
        """How many log lines begin so."""
        return sum(line["message"].startswith(message) for line in self.log(**fields))


@pytest.fixture
def make_farm(tmp_path: Path, nats_server: NatsServer) -> Iterator[Callable[..., TestFarm]]:
    """`make_farm(*arguments, url=…)` gives a farm that is not started; it is ended after the test."""
    made: list[TestFarm] = []

    def make(*arguments: str, url: str = "", environ: dict[str, str] | None = None) -> TestFarm:
        farm = TestFarm(tmp_path / f"app{len(made)}", url or nats_server.url, *arguments, environ=environ)
        made.append(farm)
        return farm

    yield make
    for farm in made:
        farm.__exit__()


@pytest.fixture
def kafka_figure(figure: Callable[[str, object], None], driver: str) -> Callable[[str, object], None]:
    """`figure` of a row that runs with several drivers."""
    return lambda name, value: figure(f"{name} ({driver})", value)
