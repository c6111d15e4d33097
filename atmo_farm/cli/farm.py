"""Which running farm a verb is meant for, and the way to it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from atmo_farm import clock
from atmo_farm.cli.session import F, config_option, debug_option, in_force
from atmo_farm.errors import AtmoFarmError, NotFound, TimedOut
from atmo_farm.folders import CONTROL_SOCKET, run_folder, run_folders
from atmo_farm.ipc import pidfile
from atmo_farm.ipc.control import ControlClient

CONNECT_S = 3.0
"""How long a farm may refuse: it has just been started, or its monitor is being replaced."""

LOOK_S = 0.05


def farm_options(function: F) -> F:
    """The flags that name a running farm; the function gets them as `run_dir`, `app` and `config`."""
    options = (
        click.option("--run-dir", metavar="DIR", help="The farm's run folder, as `start` was given it."),
        click.option("--app", metavar="IDENTIFIER", help="The application's identifier."),
        config_option,
        debug_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


class RunningFarm:
    """The run folder of a farm."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def pid(self) -> int | None:
        """The master's; None: no farm runs here."""
        return pidfile.holder(self.folder / pidfile.NAME)

    def connect(self) -> ControlClient:
        """Reach its control socket. NotFound if no farm runs here or it is another user's; TimedOut if one runs and
        does not let us in."""
        end = clock.monotonic() + CONNECT_S
        while True:
            try:
                return ControlClient(self.folder / CONTROL_SOCKET)
            except PermissionError as error:
                raise NotFound(f"the farm of {self.folder} is another user's") from error
            except OSError as error:
                pid = self.pid
                if pid is None:
                    raise NotFound(f"no farm runs in {self.folder}") from error
                if clock.monotonic() >= end:
                    raise TimedOut(
                        f"the farm with pid {pid} does not answer at {self.folder / CONTROL_SOCKET}: it is starting or "
                        "stopping, or it is stuck"
                    ) from error
            time.sleep(LOOK_S)


def find(run_dir: str | None, app: str | None, config: str | None) -> RunningFarm:
    """The farm that the flags mean; without one, this user's only running farm.

    NotFound if there is none, or several: then it names them.
    """
    if run_dir and app:
        raise click.UsageError("--run-dir and --app exclude each other")
    settings = in_force(None, {"run_dir": run_dir, "config": config}).loaded.settings
    if settings.run_dir is not None and app is None:
        return RunningFarm(settings.run_dir.absolute())
    service = run_folder(settings, os.environ)
    if service is not None and app is None and RunningFarm(service).pid is not None:
        return RunningFarm(service)
    running = [RunningFarm(folder) for folder in run_folders(settings, os.environ)]
    running = [farm for farm in running if farm.pid is not None]
    if app is not None:
        running = [farm for farm in running if _runs(farm, app)]
    if len(running) == 1:
        return running[0]
    if not running:
        what = f"no farm of {app} is running" if app else "no farm is running"
        raise NotFound(f"{what} for this user; one that was started with --run-dir is found by --run-dir")
    listed = "".join(f"\n  --run-dir {farm.folder}" for farm in running)
    raise NotFound(f"several farms are running, say which one is meant:{listed}")


def wait_for(flags: Mapping[str, Any], deadline: float | None) -> ControlClient:
    """A connection to the farm that the flags mean. With a deadline (clock.monotonic() seconds) one that is not there
    yet is waited for."""
    while True:
        try:
            return find(**flags).connect()
        except (NotFound, TimedOut):
            if deadline is None or clock.monotonic() >= deadline:
                raise
        time.sleep(LOOK_S)


def _runs(farm: RunningFarm, app: str) -> bool:
    if farm.folder.name == app:
        return True
    try:
        with farm.connect() as client:
            return bool(client.ask("status")["farm"]["app"] == app)
    except AtmoFarmError:
        return False
