"""How the tests share a machine: files beside each other on several workers, tests marked `alone` without company.

The workers are pytest-xdist's. A test holds a lock while it runs, and shares it unless it is marked `alone`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadGroupScheduling

ORDER = ("system", "integration", "contract", "unit")
"""What takes longest comes first: at the end the workers are done at about the same time."""


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three for each core for the whole suite, since most tests wait most of their time; a part of it, and --soak, run
    in this process."""
    whole = config.args_source is config.ArgsSource.TESTPATHS and not config.getoption("soak")
    return 3 * len(os.sched_getaffinity(0)) if whole else 0


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadGroupScheduling:
    """A file is one worker's, so that what it sets up is set up once."""
    return _Scheduling(config, log)


class _Scheduling(LoadGroupScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return "alone" if nodeid.endswith("@alone") else nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """In a worker: take turns with the others; and a short name for its folder, since paths of sockets are bounded."""
    if hasattr(config, "workerinput"):
        folder = Path(config.option.basetemp)
        config.option.basetemp = str(folder.with_name(config.workerinput["workerid"]))
        config.pluginmanager.register(_Turns(folder.with_name("turns")))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that run alone come last."""
    for item in items:
        if item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.xdist_group("alone"))
    items.sort(key=lambda item: (item.get_closest_marker("alone") is not None, _folder(item)))


def _folder(item: pytest.Item) -> int:
    return next((place for place, name in enumerate(ORDER) if f"tests/{name}/" in item.nodeid), len(ORDER))


class _Turns:
    def __init__(self, file: Path):
        self._file = file.open("a")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        fcntl.flock(self._file, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
