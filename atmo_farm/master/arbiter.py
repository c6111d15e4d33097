"""The master's loop: a list of named steps, each of which does what is due and says when it wants its next turn."""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal

from atmo_farm import clock, log
from atmo_farm.errors import AtmoFarmError, CannotStart
from atmo_farm.ipc.messages import Ask, ReopenLog
from atmo_farm.master import status
from atmo_farm.master.asks import BY_SIGNAL, Asks
from atmo_farm.master.board import Board
from atmo_farm.master.fleet import Fleet
from atmo_farm.master.generation import Generation
from atmo_farm.master.loader import Loader
from atmo_farm.master.notify import RETRY_S, STATUS_LIMIT, Notifier
from atmo_farm.master.recompile import Recompiler
from atmo_farm.master.reload import Reload
from atmo_farm.master.rework import Rework
from atmo_farm.master.signals import SignalQueue
from atmo_farm.master.verbs import Verbs
from atmo_farm.settings import Settings

logger = logging.getLogger("atmo_farm.master")

STATUS_S = 1.0
"""How often the status line is brought up to date."""


class Arbiter:
    """Keeps the fleet as the generation in force wants it, until it is told to stop."""

    def __init__(
        self,
        generation: Generation,
        fleet: Fleet,
        loader: Loader,
        settings: Settings,
        signals: SignalQueue,
        selector: selectors.BaseSelector,
        notifier: Notifier,
    ):
        self._generation = generation
        self._fleet = fleet
        self._loader = loader
        self._settings = settings
        self._signals = signals
        self._selector = selector
        self._notifier = notifier
        self._change: Reload | Rework | None = None
        self._asks = Asks(fleet)
        self._verbs = Verbs(fleet, self._asks, self._stop, self._show)
        self._board = Board(fleet)
        self._recompiler = Recompiler(fleet, loader, self._take_over)
        self._ready_told = False
        self._stopping = False
        self._told_to_end = False
        """By a signal: one more ends at once. A stop that was asked for is none."""
        self._error: AtmoFarmError | None = None
        self._note = ""
        self._status_at = 0.0
        self._steps = (
            self.handle_signals,
            self.handle_asks,
            self.reap_children,
            fleet.health.check_heartbeats,
            fleet.health.check_boots,
            fleet.check_drains,
            self.compile_missing,
            self.change,
            fleet.spawner.fork_due,
            self.tell_ready,
            self.tell_status,
            self.show_cards,
            notifier.feed,
        )

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain; returns 0.

        CannotStart if a connection is down at the start and settings.require_connections says that it must not be.
        """
        wanted = [(role, number) for role in self._generation.roles() for number in range(role.workers)]
        self._fleet.add(self._generation, wanted)
        try:
            while self._fleet.workers or not self._stopping:
                now = clock.monotonic()
                self._wait(min(step(now) for step in self._steps))
        finally:
            self._end_all()
        if self._error is not None:
            raise self._error
        return 0

    # The steps, in their order

    def handle_signals(self, _now: float) -> float:
        """Act on what the handlers have queued."""
        for number in self._signals.take():  # those that came while the application was loaded, too
            if number in (signal.SIGTERM, signal.SIGINT):
                how = "ending at once" if self._told_to_end else "draining"
                log.event(logger, logging.INFO, f"{signal.Signals(number).name}: {how}")
                if self._told_to_end:
                    for worker in self._fleet.workers:
                        self._fleet.kill(worker, "told to end at once")
                elif not self._stopping:
                    self._stop()
                self._told_to_end = True
            elif number == signal.SIGHUP:
                self._asks.add(BY_SIGNAL)
            elif number == signal.SIGUSR1:
                log.reopen()
                self._fleet.send(self._fleet.workers, ReopenLog())
                log.event(logger, logging.INFO, "log reopened")
        return math.inf

    def handle_asks(self, _now: float) -> float:
        """Act on what the monitor wants for those who ask it."""
        self._verbs.obey(self._generation.directive, self._stopping)
        return math.inf

    def reap_children(self, _now: float) -> float:
        """Take note of every child that has ended; the rest of the steps draw the consequences."""
        while True:
            try:
                pid, how = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return math.inf
            if not pid:
                return math.inf
            if not self._fleet.reaped(pid, how):
                self._loader.reaped(pid, how)

    def compile_missing(self, now: float) -> float:
        """Compile the generation in force again when its compiled modules are gone from the cache."""
        if not self._recompiler.is_busy and (isinstance(self._change, Reload) or self._stopping):
            return math.inf
        return self._recompiler.step(now, self._generation)

    def change(self, now: float) -> float:
        """Carry a change on, or begin one that was asked for."""
        if self._change is None:
            if not self._asks.waiting or self._recompiler.is_busy or self._stopping:
                return math.inf
            self._change = self._begin(self._asks.begin())
        wake = (change := self._change).step(now)
        if isinstance(change, Reload):
            self._generation = change.generation
        if not change.is_over:
            return wake
        self._change = None
        if isinstance(change, Reload):
            self._note = f"last reload {change.refusal}" if change.refusal else ""
        self._show()  # whoever is told of the end may look at once
        if isinstance(change, Reload) and self._ready_told:
            self._notifier.ready()
        if change.refusal:
            self._asks.fail(change.refusal, self._generation.number)
        else:
            self._asks.succeed(self._generation.number, change.changes)
        self._status_at = 0.0
        return now

    def tell_ready(self, now: float) -> float:
        """Say once that the farm is up: every worker is ready, or waits for its broker."""
        if self._ready_told or self._stopping or self._change is not None:
            return math.inf
        workers = self._fleet.serving
        waiting = next((worker.waiting for worker in workers if worker.waiting), None)
        if waiting is not None and self._settings.require_connections:
            self._error = CannotStart(f"{waiting.on} is out of reach: {waiting.reason}")
            self._stop()
            return now
        if all(worker.is_up for worker in workers):
            self._ready_told = True
            self._status_at = 0.0
            self._show()  # as above
            self._notifier.ready()
            log.event(logger, logging.INFO, "farm is up", generation=self._generation.number, workers=len(workers))
        return math.inf

    def tell_status(self, now: float) -> float:
        """Keep the status line true, and try again to send what the manager's socket had no room for."""
        if now >= self._status_at:
            line = status.line(self._generation.number, self._fleet, self._doing, self._notes)
            self._notifier.status(log.redacted(line, STATUS_LIMIT))
            self._status_at = now + STATUS_S
        return self._status_at if self._notifier.flush() else now + RETRY_S

    def show_cards(self, now: float) -> float:
        """Keep true what the monitor shows."""
        doing = self._doing or ("" if self._ready_told else "starting")
        return self._board.show(now, self._generation, doing, self._notes)

    # Parts

    def _wait(self, wake: float) -> None:
        """Sleep until something comes or is due, and let the fleet hear what its channels brought."""
        timeout = None if wake == math.inf else max(0.0, wake - clock.monotonic())
        self._fleet.listen([key for key, _ in self._selector.select(timeout)])

    @property
    def _doing(self) -> str:
        return "stopping" if self._stopping else self._change.doing if self._change else ""

    @property
    def _notes(self) -> str:
        return "; ".join(note for note in (self._note, self._generation.note) if note)

    def _take_over(self, generation: Generation) -> None:
        self._generation = generation
        for worker in self._fleet.workers:
            worker.generation = generation

    def _show(self) -> None:
        self._board.hurry()
        self.show_cards(clock.monotonic())

    def _begin(self, ask: Ask) -> Reload | Rework:
        tell = self._asks.tell
        if ask.verb in ("restart", "scale"):
            return Rework(self._generation, self._fleet, self._settings, ask, tell)
        if self._ready_told:
            self._notifier.reloading()
        return Reload(self._generation, self._fleet, self._loader, self._settings, ask, tell)

    def _stop(self) -> None:
        self._stopping = True
        self._status_at = 0.0
        self._notifier.stopping()
        self._change = None
        self._recompiler.stop()
        self._asks.stop()
        self._loader.finish()
        for worker in list(self._fleet.workers):
            self._fleet.dismiss(worker, clock.monotonic())

    def _end_all(self) -> None:
        """Leave nothing running, also when a step has failed."""
        self._loader.finish()
        for worker in self._fleet.workers:
            self._fleet.kill(worker, "the master ends")
        for worker in self._fleet.workers:
            if worker.process is not None:
                os.waitpid(worker.process.pid, 0)
