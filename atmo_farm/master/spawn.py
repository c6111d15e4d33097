"""New processes for the workers that have none."""

from __future__ import annotations

import logging
import math
import selectors
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from atmo_farm import log
from atmo_farm.ipc import channel
from atmo_farm.ipc.channel import MasterChannel
from atmo_farm.master import forking
from atmo_farm.master.worker import Process, Worker

logger = logging.getLogger("atmo_farm.master")

FORKS_IN_A_TURN = 8
"""After so many forks the loop turns, so that a signal does not wait for hundreds of them."""

NO_FORK_WAIT_S = 1.0
"""After a fork for which the machine had no place: nobody's next one would have it sooner."""

MODULES_RETRY_S = 0.5
"""How often a worker whose compiled modules are missing looks for them."""

Entry = Callable[[Worker, socket.socket], int]
"""What a child process runs: its worker and its end of the channel; returns the exit code."""


class Spawner:
    """Forks for `workers`, the fleet's own list; `shed` closes in a child what belongs to the master."""

    def __init__(
        self,
        workers: Sequence[Worker],
        entry: Entry,
        selector: selectors.BaseSelector,
        shed: Callable[[], None],
    ):
        self._workers = workers
        self._entry = entry
        self._selector = selector
        self._shed = shed
        self._no_fork_before = 0.0
        self.modules_missing = False
        """A worker could not be forked because its compiled modules are gone."""

    def fork_due(self, now: float) -> float:
        """Fork for each worker that has no process and has waited long enough."""
        wake = math.inf
        forks = 0
        for worker in self._workers:
            if worker.process is not None or worker.leaving:
                continue
            if now < (due := max(worker.respawn.next_at, self._no_fork_before)):
                wake = min(wake, due)
            elif forks == FORKS_IN_A_TURN:
                return now
            elif missing := worker.generation.missing_modules(worker.role):
                self._miss(worker, missing[0])
                worker.respawn.next_at = now + MODULES_RETRY_S
                wake = min(wake, worker.respawn.next_at)
            else:
                self._fork(worker, now)
                forks += 1
        return wake

    def _fork(self, worker: Worker, now: float) -> None:
        worker.slot.vacate()
        try:
            master_end, child_end = channel.pair()
        except OSError as error:
            self._not_forked(worker, now, error)
            return
        process_channel = MasterChannel(master_end, worker.name)

        def shed() -> None:
            self._shed()
            process_channel.close()

        try:
            pid = forking.fork(f"atmo {worker.name}", lambda: self._entry(worker, child_end), shed)
        except OSError as error:
            process_channel.close()
            self._not_forked(worker, now, error)
            return
        finally:
            child_end.close()
        worker.process = Process(pid, process_channel, now)
        self._selector.register(process_channel, selectors.EVENT_READ, worker)
        log.event(logger, logging.INFO, "worker started", worker=worker.name, pid=pid)

    def _not_forked(self, worker: Worker, now: float, error: OSError) -> None:
        self._no_fork_before = now + NO_FORK_WAIT_S
        worker.failure = f"no process for it: {error.strerror}"
        log.event(logger, logging.ERROR, "no fork", worker=worker.name, reason=str(error), again_in_s=NO_FORK_WAIT_S)

    def _miss(self, worker: Worker, module: Path) -> None:
        if not self.modules_missing:
            log.event(logger, logging.WARNING, "compiled module is gone", worker=worker.name, path=str(module))
        self.modules_missing = True
        worker.failure = "its compiled module is gone"
