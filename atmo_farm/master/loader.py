"""Where generations come from: a helper process makes one, and the master takes in what it has kept."""

from __future__ import annotations

import logging
import selectors
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from atmo_farm import log
from atmo_farm.directive import references
from atmo_farm.directive.model import Directive
from atmo_farm.master.generation import Generation, Generations
from atmo_farm.master.helper import Accepted, Helper, Job
from atmo_farm.master.prepare import Prepare, Recompile, credentials_folder
from atmo_farm.settings import Settings

logger = logging.getLogger("atmo_farm.master")


class Loader:
    """Runs helper processes for one farm, one at a time.

    `source` is the user's application, `environ` what references are resolved with, `shed` closes in a child what
    belongs to the master.
    """

    def __init__(
        self,
        source: Path,
        settings: Settings,
        environ: Mapping[str, str],
        selector: selectors.BaseSelector,
        shed: Callable[[], None],
    ):
        self.source = source.absolute()
        self._settings = settings
        self._environ = environ
        self._selector = selector
        self._shed = shed
        self._helper: Helper | None = None
        self._state: Path | None = None

    def start(self, on_identified: Callable[[str], Path]) -> Helper:
        """Begin to make the first generation; `on_identified` as in `Helper`. OSError when nothing can be forked."""

        def identified(identifier: str) -> Path:
            self._state = on_identified(identifier)
            return self._state

        return self._run(self._prepare("start", None), identified)

    def reload(self, in_force: Generation, cause: str = "reload") -> Helper:
        """Begin to make the next one, of the user's application as it is now."""
        return self._run(self._prepare(cause, in_force), self._known_state)

    def rollback(self, in_force: Generation, cause: str, to: int) -> Helper:
        """Begin to make the next one of an older generation; 0: of the one before."""
        return self._run(attrs.evolve(self._prepare(cause, in_force), back_to=to), self._known_state)

    def history(self) -> list[dict[str, Any]]:
        """What is known of the last generations, the newest first."""
        return self._generations.history()

    def recompile(self, in_force: Generation) -> Helper:
        """Begin to compile a kept generation again."""
        job = Recompile(self._known_state(), in_force.number, self._settings.defaults)
        return self._run(job, self._known_state)

    def take_in(self, accepted: Accepted) -> Generation:
        """Load the generation that a helper has kept, with every reference resolved as it stands now.

        AtmoFarmError if its bundle was changed since, or a reference is gone.
        """
        number = accepted.generation
        return Generation(number, self.directive(number), accepted.modules, self._generations.repeats(number))

    def directive(self, generation: int) -> Directive:
        """A kept generation's Directive, with every reference resolved as it stands now; AtmoFarmError as above."""
        application = self._generations.load(generation, self._settings.defaults)
        return references.resolve(application.directive, self._environ, credentials_folder(self._environ))

    def drop(self, generation: int, reason: str) -> None:
        """A generation that was accepted and is not run after all; its record says why."""
        try:
            self._generations.refuse(generation, reason)
        except (OSError, ValueError, TypeError) as error:
            log.event(logger, logging.ERROR, "generation not marked as refused", reason=str(error))

    def prune(self, in_force: Generation) -> None:
        """Remove old generations from the state folder."""
        try:
            self._generations.prune(in_force.number)
        except OSError as error:
            log.event(logger, logging.ERROR, "old generations not removed", reason=str(error))

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

    @property
    def _generations(self) -> Generations:
        return Generations(self._known_state())

    def _prepare(self, cause: str, in_force: Generation | None) -> Prepare:
        return Prepare(self.source, self._settings.defaults, self._environ, cause, in_force)

    def _known_state(self, _identifier: str = "") -> Path:
        assert self._state is not None
        return self._state

    def _run(self, job: Job, on_identified: Callable[[str], Path]) -> Helper:
        assert self._helper is None
        helper = Helper(job, on_identified, self._settings.load_timeout_s)
        helper.start(self._shed)
        self._selector.register(helper, selectors.EVENT_READ)
        self._helper = helper
        return helper
