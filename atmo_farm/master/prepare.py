"""The helper's jobs: from the user's files to a generation that the farm can run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from atmo_farm import processes
from atmo_farm.directive import Application, diff, read, references, served
from atmo_farm.directive.report import in_order
from atmo_farm.errors import AtmoFarmError, CannotStart, UserFilesError
from atmo_farm.folders import ensure_private_folder
from atmo_farm.master.generation import Generation, Generations
from atmo_farm.master.helper import Accepted, HelperSide
from atmo_farm.settings import HandlerDefaults

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

    def __call__(self, side: HelperSide) -> None:
        """Every problem is reported at once; modules are compiled only for a Directive without errors."""
        reading = read(self.source, self.defaults)
        application, problems = reading.application, list(reading.problems if not reading.is_whole else ())
        directive = resolved = application.directive
        if reading.is_whole and self.in_force and directive.identifier != self.in_force.directive.identifier:
            raise CannotStart(
                f"the identifier is now {directive.identifier}, and this farm runs "
                f"{self.in_force.directive.identifier}: that is another application, start a farm of its own for it"
            )
        not_served = [attrs.evolve(problem, severity="error") for problem in served.not_served(directive)]
        try:
            resolved = references.resolve(directive, self.environ, credentials_folder(self.environ))
        except UserFilesError as error:
            problems += error.problems
        if not reading.is_whole:
            raise UserFilesError(in_order([*problems, *not_served]))
        state = side.identify(directive.identifier)
        modules, module_problems = processes.compile_modules(application, modules_folder(state))
        problems += module_problems
        if problems:
            raise UserFilesError(in_order([*problems, *not_served]))
        if not_served:
            raise CannotStart("\n".join(map(str, not_served)))
        if any(role.is_proxy for role in Generation(0, resolved, modules).roles()):
            processes.try_data_sources(resolved)
        generations = Generations(state)
        in_force = self.in_force.number if self.in_force is not None else 0
        number = generations.write(application, self.cause, self.source, after=in_force)
        used = [*modules.values(), *(self.in_force.modules.values() if self.in_force is not None else ())]
        processes.prune_modules(modules_folder(state), used)
        side.accept(Accepted(number, application.warnings, modules, self._changes(generations, application)))

    def _changes(self, generations: Generations, application: Application) -> str:
        if self.in_force is None:
            return ""
        try:
            return diff(generations.load(self.in_force.number, self.defaults), application).describe()
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
