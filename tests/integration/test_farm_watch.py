"""`start --watch` on a real farm: a change on the disk is in force by itself, a broken one changes nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from atmo_farm.directive import build, load
from atmo_farm.settings import HandlerDefaults
from tests.farm import Farm, nats_directive, wait_for, write_app, write_directive
from tests.servers.nats import NatsServer

IN_FORCE = "reload: in force"
HANDLER = "resource: watch.{name}\nname: {name}\nsteps: [{{fn: hello}}]\n"


def refusals(farm: Farm) -> int:
    return sum(line["message"].startswith("reload refused") for line in farm.log())


@pytest.fixture
def directive(nats_server: NatsServer) -> Callable[..., str]:
    return lambda *names: nats_directive(nats_server.url, *(HANDLER.format(name=name) for name in names))


def test_a_project_folder(tmp_path: Path, directive: Callable[..., str]) -> None:
    """A change is loaded once; a broken one is refused once, and what runs goes on; a monitor that comes later sees
    what was changed while there was none."""
    app = write_app(tmp_path / "app", directive("a"), ("c", "hello"))
    with Farm(app, "--watch") as farm:
        write_directive(app, directive("a", "b"))
        wait_for(lambda: farm.log(message=IN_FORCE))
        assert [line["cause"] for line in farm.log(message="reload: checking")] == ["watch"]
        pids = farm.children()
        assert len(pids) == 2
        write_directive(app, "handlers: [{type: nonsense}]\n")
        wait_for(lambda: refusals(farm))
        monitor = farm.monitor()
        os.kill(monitor, signal.SIGSTOP)
        write_directive(app, directive("a", "b", "c"))
        os.kill(monitor, signal.SIGKILL)
        wait_for(lambda: len(farm.log(message=IN_FORCE)) == 2)
        assert set(pids) < set(farm.children()) and refusals(farm) == 1
        farm.stop()
    assert not Path(f"/proc/{farm.pid}").exists()


def test_a_bundle_that_is_replaced(tmp_path: Path, directive: Callable[..., str]) -> None:
    """By a rename, as a deployment should."""
    app = write_app(tmp_path / "app", directive("a"), ("c", "hello"))
    bundle, other = tmp_path / "app.zip", tmp_path / "other.zip"

    def pack(path: Path) -> None:
        build.write_bundle(load(app, HandlerDefaults()), path)

    pack(bundle)
    with Farm(bundle, environ={"ATMO_FARM_APP_WATCH": "true"}) as farm:
        write_directive(app, directive("a", "b"))
        pack(other)
        other.rename(bundle)
        wait_for(lambda: len(farm.log(message=IN_FORCE)) == 1)
