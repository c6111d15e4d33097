"""All workers and their processes: who is wanted, heard, told, dismissed and reaped.

Each step does what is due and returns the clock.monotonic() second at which it wants its next turn; `math.inf` means
only after an event.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
from collections.abc import Callable, Sequence
from typing import Any

from atmo_farm import clock, log
from atmo_farm.delivery.crashes import CrashLedger
from atmo_farm.errors import CannotStart
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.cards import Kind
from atmo_farm.ipc.channel import MasterChannel
from atmo_farm.ipc.exits import ChildExit
from atmo_farm.ipc.messages import Ask, Command, Event, Failed, Suspect, Told, Waiting
from atmo_farm.master import ends
from atmo_farm.master.generation import Generation
from atmo_farm.master.health import Health
from atmo_farm.master.role import Role
from atmo_farm.master.slots import Slots
from atmo_farm.master.spawn import Entry, Spawner
from atmo_farm.master.wishes import Wishes
from atmo_farm.master.worker import Process, Worker
from atmo_farm.settings import Settings

logger = logging.getLogger("atmo_farm.master")

MOST_HEARD = 1000
"""Asks of the monitor that wait for the loop's next turn."""


class Fleet:
    """The workers. `shed` closes in a child what belongs to the master, what `Fleet.shed` closes among it."""

    def __init__(
        self,
        entry: Entry,
        settings: Settings,
        selector: selectors.BaseSelector,
        shed: Callable[[], None],
        crashes: CrashLedger,
    ):
        self.crashes = crashes
        self._settings = settings
        self._selector = selector
        self.slots = Slots()
        self.wishes = Wishes()
        self.workers: list[Worker] = []
        self.asks: list[Ask] = []
        """What the monitor wants and the loop has not looked at yet."""
        self.health = Health(self.workers, self.kill, settings)
        self.spawner = Spawner(self.workers, entry, selector, shed)

    @property
    def serving(self) -> list[Worker]:
        """The workers that an application is made of: all but the monitor."""
        return [worker for worker in self.workers if not worker.role.is_monitor]

    def consumers(self, handler: str, leaving: bool = False) -> list[Worker]:
        """A handler's workers; `leaving`: also those that drain."""
        found = [worker for worker in self.workers if worker.role.key == (Kind.CONSUMER, handler)]
        return [worker for worker in found if leaving or not worker.leaving]

    # The life of a worker

    def check_places(self, count: int) -> None:
        """CannotStart unless the arena has room for so many more workers."""
        if count > self.slots.free:
            raise CannotStart(f"{count} workers wanted, room for {self.slots.free}: give handlers fewer `workers`")

    def add(self, generation: Generation, wanted: Sequence[tuple[Role, int]]) -> list[Worker]:
        """Want these workers too, role and number each; their processes are forked by the next `fork_due`.

        Those that ask for data get the proxy among them, else the one that is there.
        """
        added: list[Worker] = []
        proxy = next((worker for worker in self.workers if worker.role.is_proxy and not worker.leaving), None)
        for role, number in sorted(wanted, key=lambda pair: list(Kind).index(pair[0].kind)):
            worker = Worker(generation, role, number, self.slots.take(role.key), proxy if role.uses_proxy else None)
            proxy = worker if role.is_proxy else proxy
            self.workers.append(worker)
            added.append(worker)
        return added

    def dismiss(self, worker: Worker, now: float) -> None:
        """Want it no more: its process may finish what it holds, until the drain deadline.

        A proxy is told to end when nobody is left who could ask it, the monitor after all others (`check_drains`).
        """
        if worker.leaving or worker not in self.workers:
            return
        worker.leaving = True
        if not self._is_needed(worker):
            self._end(worker, now)

    def kill(self, worker: Worker, because: str) -> None:
        """SIGKILL its process, if there is one."""
        if worker.process is not None and not worker.process.killed_because:
            worker.process.killed_because = because
            os.kill(worker.process.pid, signal.SIGKILL)

    def answer(self, ids: Sequence[str], what: dict[str, Any]) -> None:
        """Let the monitor know how it stands with what it has asked; an empty id is nobody's.

        One that does not take an end is killed: those who wait for it would wait for ever.
        """
        if named := [one for one in ids if one]:
            monitors = [worker for worker in self.workers if worker.role.is_monitor]
            for worker in self.send(monitors, Told(named, what)):
                if "progress" not in what:
                    self.kill(worker, "it does not read its channel")

    def send(self, workers: Sequence[Worker], command: Command) -> list[Worker]:
        """Tell their processes; returns those that do not read."""
        deaf = []
        for worker in workers:
            if worker.process is not None:
                deaf += [] if worker.process.channel.send(command) else [worker]
                self._watch(worker.process.channel, worker)
        return deaf

    def shed(self) -> None:
        """In a child: the channels belong to the master."""
        for worker in self.workers:
            if worker.process is not None:
                worker.process.channel.close()

    # Steps of the master's loop, in their order

    def listen(self, ready: list[selectors.SelectorKey]) -> None:
        """Read and write the channels that are ready."""
        for key in ready:
            worker = key.data
            if isinstance(worker, Worker) and worker.process is not None and worker.process.channel is key.fileobj:
                worker.process.channel.flush()
                self._hear(worker, worker.process, worker.process.channel.receive())
                self._watch(worker.process.channel, worker)

    def reaped(self, pid: int, status: int) -> bool:
        """Take note of a child's end; False if it is none of ours."""
        for worker in self.workers:
            if worker.process is not None and worker.process.pid == pid:
                self._ended(worker, worker.process, status)
                return True
        return False

    def check_drains(self, now: float) -> float:
        """Kill a leaving process at its deadline."""
        wake = math.inf
        for worker in list(self.workers):
            if worker.leaving and worker.kill_at == math.inf and not self._is_needed(worker):
                self._end(worker, now)
            if worker.leaving and worker.process is not None and not worker.process.killed_because:
                if now >= worker.kill_at:
                    self.kill(worker, f"not drained after {self._settings.drain_deadline_s:g} s")
                else:
                    wake = min(wake, worker.kill_at)
        return wake

    # Parts

    def _is_needed(self, worker: Worker) -> bool:
        """Whether it is a proxy that somebody may ask, or the monitor and others are there that it can tell of."""
        if worker.role.is_monitor:
            return bool(self.serving)
        return worker.role.is_proxy and any(other.proxy is worker for other in self.workers)

    def _end(self, worker: Worker, now: float) -> None:
        worker.kill_at = now + self._settings.drain_deadline_s
        if worker.process is None:
            self._remove(worker)
        else:
            os.kill(worker.process.pid, signal.SIGTERM)

    def _hear(self, worker: Worker, process: Process, events: list[Event]) -> None:
        for event in events:
            process.told(event)
            if isinstance(event, Ask):
                self._asked(worker, event)
            if isinstance(event, Ask | Failed):
                continue
            worker.failure, worker.cannot_boot = "", False
            if isinstance(event, Waiting):
                log.event(logger, logging.WARNING, "worker waits", worker=worker.name, on=event.on, reason=event.reason)
            else:
                after_ms = round((clock.monotonic() - process.forked_at) * 1000, 1)
                log.event(logger, logging.INFO, "worker ready", worker=worker.name, pid=process.pid, after_ms=after_ms)
        if process.channel.flooded:
            self.kill(worker, "it floods its channel")

    def _asked(self, worker: Worker, ask: Ask) -> None:
        if not worker.role.is_monitor or len(self.asks) == MOST_HEARD:
            log.event(logger, logging.WARNING, "not heard", worker=worker.name, asks=ask.verb)
        else:
            self.asks.append(ask)

    def _watch(self, channel: MasterChannel, worker: Worker) -> None:
        if channel.closed:
            self._unwatch(channel)
        else:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.wants_write else 0)
            self._selector.modify(channel, events, worker)

    def _unwatch(self, channel: MasterChannel) -> None:
        """Before a channel is closed at the latest: its descriptor's number may be another's soon."""
        if channel.fileno() in self._selector.get_map():
            self._selector.unregister(channel)

    def _ended(self, worker: Worker, process: Process, status: int) -> None:
        worker.process = None
        self._hear(worker, process, process.channel.receive_rest())
        self._unwatch(process.channel)
        process.channel.close()
        self._suspect(worker, process, status)
        worker.slot.vacate()
        now = clock.monotonic()
        if worker.leaving:
            ends.log_end(worker, process, status, None)
            self._remove(worker)
            return
        worker.restarts += 1
        worker.slot.numbers[ends.field(process, status)] += 1
        worker.respawn.died(now, process.forked_at, process.was_ready)
        if not process.was_ready:
            worker.failure = process.failure or ends.cause(process, status)
            worker.cannot_boot = os.waitstatus_to_exitcode(status) == ChildExit.BOOT_FAILED
        ends.log_end(worker, process, status, worker.respawn.next_at - now)

    def _suspect(self, worker: Worker, process: Process, status: int) -> None:
        """After a death that nobody wished for: the message whose guest ran may be to blame."""
        number = worker.slot.numbers[Field.ENTERED]
        code = os.waitstatus_to_exitcode(status)
        if not number or process.killed_because or (code >= 0 and code != ChildExit.INTERNAL):
            return
        deaths = self.crashes.blame(worker.role.name, number)
        text = "a message is suspected of the process's death"
        log.event(logger, logging.ERROR, text, worker=worker.name, pid=process.pid, number=str(number), deaths=deaths)
        self.send(self.consumers(worker.role.name, leaving=True), Suspect(number, deaths))

    def _remove(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.slots.give_back(worker.slot)
