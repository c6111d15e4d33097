"""From one generation to the next without a gap: what stays, what is started, what ends.

    check      a helper process makes the new generation; on any problem the old one runs on untouched
    start      workers that are new or changed, beside the old ones, in slots of their own
    commit     when all of them are up: the old ones drain
    or back    when one cannot boot, or too much time goes by: the new ones end, the old ones never noticed
"""

from __future__ import annotations

from collections.abc import Iterable

from atmo_farm.errors import CannotStart
from atmo_farm.master.fleet import Fleet
from atmo_farm.master.generation import Generation
from atmo_farm.master.worker import Worker


class Roll:
    """One way from the workers of one generation to those of `new`; `kept` need not change."""

    def __init__(self, fleet: Fleet, new: Generation, deadline: float):
        """Start what is new. CannotStart if the arena has no place for it."""
        self._fleet = fleet
        self._deadline = deadline
        self.new = new
        wanted = {(handler.name, number): handler for handler in new.stream_handlers() for number in range(handler.workers)}
        self.kept: list[Worker] = []
        self.ending: list[Worker] = []
        for worker in fleet.workers:
            handler = wanted.get(worker.key)
            if handler is not None and new.recipe(handler) == worker.recipe:
                self.kept.append(worker)
                del wanted[worker.key]
            else:
                self.ending.append(worker)
        if len(wanted) > fleet.slots.free:
            raise CannotStart(
                f"{len(wanted)} workers are to be started and {fleet.slots.free} places are left; give handlers fewer `workers`"
            )
        self.starting = [Worker(new, handler, number, fleet.slots.take()) for (_, number), handler in wanted.items()]
        for worker in self.starting:
            fleet.add(worker)

    @property
    def is_up(self) -> bool:
        """Whether everything new serves, or would if its broker could be reached."""
        return all(worker.is_up for worker in self.starting)

    def failure(self, now: float) -> str:
        """Why the new generation does not get ready; empty as long as it may."""
        for worker in self.starting:
            if worker.failure:
                return f"{worker.name}: {worker.failure}"
        if now >= self._deadline:
            late = [worker.name for worker in self.starting if not worker.is_up]
            return f"not ready in time: {', '.join(late)}"
        return ""

    def commit(self, now: float) -> None:
        """The new generation is the farm's."""
        handlers = {handler.name: handler for handler in self.new.stream_handlers()}
        for worker in self.kept:
            worker.adopt(self.new, handlers[worker.handler.name])
        self._dismiss(self.ending, now)

    def roll_back(self, now: float) -> None:
        """The old generation stays the farm's."""
        self.ending = self.starting
        self._dismiss(self.ending, now)

    @property
    def is_over(self) -> bool:
        """After `commit` or `roll_back`: whether what was to end has ended."""
        return not any(worker in self._fleet.workers for worker in self.ending)

    def _dismiss(self, workers: Iterable[Worker], now: float) -> None:
        for worker in list(workers):
            if worker in self._fleet.workers:
                self._fleet.dismiss(worker, now)
