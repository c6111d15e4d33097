"""The master from its first line to its exit code: signal handlers, application, folders, lock, preload, loop."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

from atmo_farm import clock, log, processes
from atmo_farm.delivery.crashes import CrashLedger
from atmo_farm.directive.secrets import secrets
from atmo_farm.errors import AtmoFarmError, CannotStart
from atmo_farm.folders import CONTROL_SOCKET, Folders, ensure_private_folder, folders
from atmo_farm.ipc import address, pidfile
from atmo_farm.ipc.address import Listener
from atmo_farm.ipc.pidfile import PidFile
from atmo_farm.master import heap, instance
from atmo_farm.master.arbiter import Arbiter
from atmo_farm.master.fleet import Fleet
from atmo_farm.master.generation import Generation
from atmo_farm.master.loader import Loader
from atmo_farm.master.notify import Notifier
from atmo_farm.master.signals import SignalQueue
from atmo_farm.master.worker import Worker
from atmo_farm.settings import Settings
from atmo_farm.tracing.collector import Collector, collector

logger = logging.getLogger("atmo_farm.master")


class Master:
    """One farm. `source` is the application, a folder or a bundle; `environ` is what `env(NAME)` and the folders are
    taken from. Logging is set up already."""

    def __init__(self, source: Path, settings: Settings, environ: Mapping[str, str] = os.environ):
        self._settings = settings
        self._environ = environ
        self._signals = SignalQueue()
        self._notifier = Notifier(os.environ)
        self._selector = selectors.DefaultSelector()
        self._pid_files: list[PidFile] = []
        self._places = Folders(Path(), Path())
        self._instance = ""
        self._collector: Collector | None = None
        self._http: Listener | None = None
        self._fleet: Fleet | None = None
        self._loader = Loader(source, settings, environ, self._selector, self._shed_all)

    def run(self) -> int:
        """Run the farm until it is told to stop; returns the exit code.

        UserFilesError if the application has problems; CannotStart if the run folder is held by another farm, this
        build does not serve all of the application, or a required connection is down.
        """
        self._signals.install()
        log.bind(process="master")
        self._collector = collector(self._settings.tracer)
        self._selector.register(self._signals, selectors.EVENT_READ)
        try:
            generation = self._load()
            if generation is None:
                return 0
            log.bind(generation=generation.number)
            log.redact(secrets(generation.directive))
            processes.preload_for(generation.directive)
            self._http = address.listen(self._settings.monitor_address)
            heap.freeze()
            heap.fill_holes()
            self._crashes = CrashLedger(self._places.state)
            self._fleet = Fleet(self._run_child, self._settings, self._selector, self._shed, self._crashes)
            arbiter = Arbiter(
                generation, self._fleet, self._loader, self._settings, self._signals, self._selector, self._notifier
            )
            return arbiter.run()
        finally:
            self._loader.finish()
            self._signals.finish()
            if self._http is not None:
                self._http.end()
            for pid_file in self._pid_files:
                pid_file.release()

    def _load(self) -> Generation | None:
        """The first generation; None if the farm was told to stop before it was there."""
        self._notifier.status("loading the application")
        try:
            helper = self._loader.start(self._settle)
        except OSError as error:
            raise CannotStart(f"no helper process: {error.strerror}") from error
        processes.preload(tracing=self._collector is not None)  # meanwhile
        while helper.result is None:
            if self._signals.take({signal.SIGTERM, signal.SIGINT}):
                return None
            self._selector.select(max(0.0, helper.step(clock.monotonic()) - clock.monotonic()))
        self._loader.finish()
        if isinstance(helper.result, AtmoFarmError):
            raise helper.result
        for warning in helper.result.warnings:
            log.event(logger, logging.WARNING, str(warning))
        generation = self._loader.take_in(helper.result)
        self._loader.prune(generation)
        return generation

    def _settle(self, identifier: str) -> Path:
        """Take possession of this application's folders; returns the state folder."""
        log.bind(app=self._settings.app_name or identifier)
        places = folders(self._settings, identifier, self._environ)
        self._places = places
        ensure_private_folder(places.run)
        ensure_private_folder(places.state)
        self._lock(places.run)
        self._lock(places.state)
        self._instance = instance.identity(places.state)
        log.event(logger, logging.INFO, "farm starts", instance=self._instance, run_dir=str(places.run))
        return places.state

    def _lock(self, folder: Path) -> None:
        pid_file = PidFile(folder / pidfile.NAME)
        if pid_file.path not in (held.path for held in self._pid_files):  # both folders may be the same one
            pid_file.acquire()
            self._pid_files.append(pid_file)

    def _shed(self) -> None:
        """In a child: close what belongs to the master."""
        for pid_file in self._pid_files:
            pid_file.close()
        self._selector.close()
        self._signals.close()
        self._notifier.close()
        self._loader.shed()
        if self._fleet is not None:
            self._fleet.shed()

    def _shed_all(self) -> None:
        """In a helper, which serves nobody."""
        self._shed()
        if self._http is not None:
            self._http.close()

    def _run_child(self, worker: Worker, channel: socket.socket) -> int:
        """In the child: be what the worker is for."""
        role, handler = worker.role, worker.role.handler
        if role.is_monitor:
            from atmo_farm.monitor.context import MonitorContext

            return processes.run_monitor(
                MonitorContext(
                    arena=worker.slot.arena,
                    settings=self._settings,
                    slot=worker.slot.numbers,
                    channel=channel,
                    path=self._places.run / CONTROL_SOCKET,
                    state=self._places.state,
                    generation=worker.generation.number,
                    directive=self._loader.directive,
                    history=self._loader.history,
                    watched=self._loader.source if self._settings.watch else None,
                    http=self._http,
                )
            )
        if self._http is not None:
            self._http.close()
        if handler is None:
            from atmo_farm.datasource.context import ProxyContext

            return processes.run_datasource(
                ProxyContext(
                    directive=worker.generation.directive,
                    settings=self._settings,
                    slot=worker.slot.numbers,
                    channel=channel,
                    path=self._socket(worker),
                    generation=worker.generation.number,
                )
            )
        from atmo_farm.consumer.context import ChildContext

        return processes.run_consumer(
            ChildContext(
                handler=handler,
                directive=worker.generation.directive,
                modules=worker.generation.modules,
                settings=self._settings,
                slot=worker.slot.numbers,
                channel=channel,
                worker=worker.number,
                generation=worker.generation.number,
                master_pid=os.getppid(),
                state=self._places.state,
                instance=self._instance,
                proxy=None if worker.proxy is None else self._socket(worker.proxy),
                collector=self._collector,
                suspects=self._crashes.suspects(handler.name),
                paused=self._fleet is not None and self._fleet.wishes.is_paused(role),
            )
        )

    def _socket(self, proxy: Worker) -> Path:
        """Where a proxy listens: its slot's number keeps an old and a new one apart during a reload."""
        return self._places.run / f"data{proxy.slot.index}.sock"
