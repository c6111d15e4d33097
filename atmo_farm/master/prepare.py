"""The helper's jobs: from the user's files to a generation that the farm can run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import attrs

from atmo_farm import log, processes
from atmo_farm.directive import Application, diff, read, references, served
from atmo_farm.directive.footprint import footprint
from atmo_farm.directive.model import Directive
from atmo_farm.directive.report import in_order
from atmo_farm.errors import AtmoFarmError, CannotStart, Problem, UserFilesError
from atmo_farm.folders import ensure_private_folder
from atmo_farm.master.generation import Generation, Generations
from atmo_farm.master.helper import Accepted, HelperSide
from atmo_farm.settings import HandlerDefaults

logger = logging.getLogger("atmo_farm.master")

MODULES = "modules"
"""Compiled modules, in the state folder."""


@attrs.frozen
class Prepare:
    """Load the user's application, check all of it, compile it, keep it as the next generation."""

    source: Path
    defaults: HandlerDefaults
    environ: Mapping[str, str]
    cause: str
    """Why: `start`, or who wanted the reload; it goes into the generation's record."""
    in_force: Generation | None = None
    """What the farm runs so far."""

    back_to: int | None = None
    """For a rollback: the older generation that is wanted, 0 for the one before."""

    def __call__(self, side: HelperSide) -> None:
        """Every problem is reported at once; modules are compiled only for a Directive without errors."""
        in_force = self.in_force
        before = footprint(self.source)
        if in_force is not None and self.back_to is not None:
            generations = Generations(side.identify(in_force.directive.identifier))
            self._accept(
                side, generations, before, *self._kept(generations, generations.earlier(in_force.number, self.back_to))
            )
            return
        reading = read(self.source, self.defaults)
        directive = reading.application.directive
        if not reading.is_whole:
            _, problems, not_served = self._resolve(directive)
            raise UserFilesError(in_order([*reading.problems, *problems, *not_served]))
        if in_force is not None and directive.identifier != in_force.directive.identifier:
            raise CannotStart(
                f"the identifier is now {directive.identifier}, and this farm runs "
                f"{in_force.directive.identifier}: that is another application, start a farm of its own for it"
            )
        generations = Generations(side.identify(directive.identifier))
        held = self._held(generations, directive.identifier) if in_force is None else None
        self._accept(side, generations, before, *(held or (reading.application, 0)))

    def _kept(self, generations: Generations, number: int) -> tuple[Application, int]:
        """An older generation, and which one that is for people: one that repeats another is that other."""
        return generations.load(number, self.defaults), generations.repeats(number) or number

    def _held(self, generations: Generations, identifier: str) -> tuple[Application, int] | None:
        """What the farm was rolled back to before it ended; None: nothing, or it cannot be read."""
        if not (number := generations.held()):
            return None
        try:
            found = self._kept(generations, number)
        except AtmoFarmError as error:
            log.event(logger, logging.WARNING, "the rollback does not hold any more", reason=str(error))
            return None
        return found if found[0].directive.identifier == identifier else None

    def _resolve(self, directive: Directive) -> tuple[Directive, list[Problem], list[Problem]]:
        """With every reference resolved; what is wrong with those, and what this build does not serve."""
        not_served = [attrs.evolve(problem, severity="error") for problem in served.not_served(directive)]
        try:
            return references.resolve(directive, self.environ, credentials_folder(self.environ)), [], not_served
        except UserFilesError as error:
            return directive, list(error.problems), not_served

    def _accept(
        self, side: HelperSide, generations: Generations, before: str, application: Application, repeats: int
    ) -> None:
        """Check the rest of an application that is whole, and keep it as the next generation. `before`: how the source
        looked then; also after a rollback, for who watches it is not to load it again before it changes."""
        resolved, problems, not_served = self._resolve(application.directive)
        modules, module_problems = processes.compile_modules(application, modules_folder(generations.state))
        problems += module_problems
        if problems:
            raise UserFilesError(in_order([*problems, *not_served]))
        if not_served:
            raise CannotStart("\n".join(map(str, not_served)))
        if any(role.is_proxy for role in Generation(0, resolved, modules).roles()):
            processes.try_data_sources(resolved)
        in_force = self.in_force
        changes = self._changes(generations, application, resolved)
        after = in_force.number if in_force is not None else 0
        number = generations.write(application, self.cause, self.source, after, changes, repeats, before)
        used = [*modules.values(), *(in_force.modules.values() if in_force is not None else ())]
        processes.prune_modules(modules_folder(generations.state), used)
        side.accept(Accepted(number, application.warnings, modules, changes))

    def _changes(self, generations: Generations, application: Application, resolved: Directive) -> str:
        """What is different, of secrets too: the old ones as they were, the new ones as they are."""
        if self.in_force is None:
            return ""
        try:
            old = generations.load(self.in_force.number, self.defaults)
            in_force = attrs.evolve(old, directive=self.in_force.directive)
            return diff(in_force, attrs.evolve(application, directive=resolved)).describe()
        except AtmoFarmError as error:  # what is wrong with the old one must not keep the new one from its place
            return f"unknown: {error}"


@attrs.frozen
class Recompile:
    """Compile a kept generation again: somebody emptied the module cache."""

    state: Path
    generation: int
    defaults: HandlerDefaults

    def __call__(self, side: HelperSide) -> None:
        """Nothing is checked again but the bundle's checksum."""
        application = Generations(self.state).load(self.generation, self.defaults)
        modules, problems = processes.compile_modules(application, modules_folder(self.state))
        if problems:
            raise UserFilesError(problems)
        side.accept(Accepted(self.generation, (), modules))


def modules_folder(state: Path) -> Path:
    """The module cache, made if need be."""
    folder = state / MODULES
    ensure_private_folder(folder)
    return folder


def credentials_folder(environ: Mapping[str, str]) -> Path | None:
    """Where systemd puts credentials, if it did."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None
