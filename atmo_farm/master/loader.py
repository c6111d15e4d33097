"""Where generations come from: a helper process makes one, and the master takes in what it has kept."""

from __future__ import annotations

import gc
import os
import selectors
from collections.abc import Callable
from pathlib import Path

from atmo_farm.directive import references
from atmo_farm.master.generation import Generation, Generations
from atmo_farm.master.helper import Accepted, Helper, Job
from atmo_farm.master.prepare import Prepare, Recompile, credentials_folder
from atmo_farm.settings import Settings


class Loader:
    """Runs helper processes for one farm, one at a time. `source` is the user's application."""

    def __init__(self, source: Path, settings: Settings, selector: selectors.BaseSelector, shed: Callable[[], None]):
        self._source = source
        self._settings = settings
        self._selector = selector
        self._shed = shed
        self._helper: Helper | None = None
        self._identifier = ""
        self._state: Path | None = None

    @property
    def busy(self) -> bool:
        """Whether a helper is at work, or its result was not taken yet."""
        return self._helper is not None

    @property
    def generations(self) -> Generations:
        """The kept generations."""
        assert self._state is not None
        return Generations(self._state)

    def start(self, cause: str, on_identified: Callable[[str], Path]) -> Helper:
        """Begin to make a generation of the user's application as it is now. OSError when nothing can be forked."""

        def identified(identifier: str) -> Path:
            self._state = on_identified(identifier)
            self._identifier = identifier
            return self._state

        job = Prepare(self._source.absolute(), self._settings.defaults, cause, self._identifier)
        return self._run(job, identified)

    def reload(self) -> Helper:
        """The same for a farm that runs: another application is refused."""
        assert self._state is not None
        state = self._state
        return self.start("reload", lambda _: state)

    def recompile(self, generation: Generation) -> Helper:
        """Begin to compile a kept generation again."""
        assert self._state is not None
        state = self._state
        return self._run(Recompile(state, generation.number, self._settings.defaults), lambda _: state)

    def take_in(self, accepted: Accepted) -> Generation:
        """Load the generation that a helper has kept, with every reference resolved as it stands now.

        AtmoFarmError if its bundle was changed since, or a reference is gone.
        """
        application = self.generations.load(accepted.generation, self._settings.defaults)
        resolved = references.resolve(application.directive, os.environ, credentials_folder())
        return Generation(accepted.generation, resolved, accepted.modules)

    def finish(self) -> None:
        """Done with the helper: ends it, if it still runs."""
        if self._helper is not None:
            self._selector.unregister(self._helper)
            self._helper.close()
            self._helper = None

    def reaped(self, pid: int, status: int) -> bool:
        """Take note of a child's end; False if it was no helper."""
        return self._helper is not None and self._helper.ended(pid, status)

    def shed(self) -> None:
        """In a child: the helper's channel belongs to the master."""
        if self._helper is not None:
            self._helper.shed()

    def _run(self, job: Job, on_identified: Callable[[str], Path]) -> Helper:
        assert self._helper is None
        helper = Helper(job, on_identified, self._settings.load_timeout_s)
        helper.start(self._shed)
        self._selector.register(helper, selectors.EVENT_READ)
        self._helper = helper
        return helper


def freeze() -> None:
    """Put what is loaded beyond the collector's reach, so that children go on sharing its memory with the master."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
