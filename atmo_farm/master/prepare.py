"""The helper's jobs: from the user's files to a generation that the farm can run."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from atmo_farm import directive, processes
from atmo_farm.directive import references, served
from atmo_farm.errors import CannotStart, Problem, UserFilesError
from atmo_farm.folders import ensure_private_folder
from atmo_farm.master.generation import Generations
from atmo_farm.master.helper import Accepted, HelperSide
from atmo_farm.settings import HandlerDefaults

MODULES = "modules"
"""Compiled modules, in the state folder."""


@attrs.frozen
class Prepare:
    """Load the user's application, check all of it, compile it, keep it as the next generation."""

    source: Path
    defaults: HandlerDefaults
    cause: str
    """Why: `start` or `reload`; it goes into the generation's record."""
    identifier: str = ""
    """The application that the farm runs already; another one is refused."""

    def __call__(self, side: HelperSide) -> None:
        """Every problem is reported at once, as far as one does not hide the next."""
        application = directive.load(self.source, self.defaults)
        running = application.directive
        if self.identifier and running.identifier != self.identifier:
            raise CannotStart(
                f"the identifier is now {running.identifier}, and this farm runs {self.identifier}: that is another "
                "application, start a farm of its own for it"
            )
        if not_served := served.not_served(running):
            raise CannotStart("\n".join(str(problem) for problem in not_served))
        problems: list[Problem] = []
        try:
            references.resolve(running, os.environ, credentials_folder())
        except UserFilesError as error:
            problems += error.problems
        state = side.identify(running.identifier)
        modules, module_problems = processes.compile_modules(application, modules_folder(state))
        problems += module_problems
        if problems:
            raise UserFilesError(problems)
        number = Generations(state).write(application, self.cause, self.source)
        side.accept(Accepted(number, application.warnings, modules))


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


def credentials_folder() -> Path | None:
    """Where systemd puts credentials, if it did."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) if folder else None
