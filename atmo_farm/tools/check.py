"""The job behind `atmo-farm check`: everything that is wrong with an application, and what to mind."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import attrs

from atmo_farm import directive, processes
from atmo_farm.directive import differences, references, served
from atmo_farm.directive.differences import Note
from atmo_farm.directive.model import Directive
from atmo_farm.directive.report import in_order
from atmo_farm.errors import Problem, UserFilesError
from atmo_farm.settings import Settings

MAPPINGS_PER_INSTANCE = 8
"""Memory mappings of one Wasm instance with its I/O memory: measured, spec 0."""

MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")


@attrs.frozen
class Checked:
    """What `check` found: errors and warnings in the order of their places."""

    problems: tuple[Problem, ...]
    directive: Directive | None
    """None: it cannot be used as it is."""
    notes: tuple[Note, ...] = ()
    """Where it behaves otherwise than in Atmo; none while it cannot be used."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What keeps the application from running."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What does not, on this machine and for now."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")


def check(source: Path, settings: Settings, environ: Mapping[str, str], connect: bool = False) -> Checked:
    """Read the whole application and compile each module in a cache folder that is thrown away.

    Modules are compiled and references looked up even when the Directive has errors: all is told at once. With
    `connect`, an application without errors has its connections tried and its queries prepared.
    """
    try:
        reading = directive.read(source, settings.defaults)
    except UserFilesError as error:
        return Checked(error.problems, None)
    found = reading.application.directive
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    with tempfile.TemporaryDirectory(prefix="atmo-farm-check-") as folder:
        _, module_problems = processes.compile_modules(reading.application, Path(folder))
    problems = [
        *reading.problems,
        *served.not_served(found),
        *references.unset(found, environ, Path(credentials) if credentials else None),
        *module_problems,
    ]
    if not reading.is_whole:
        return Checked(in_order(problems), None)
    problems += _too_many_mappings(found, MAX_MAP_COUNT)
    if connect and not any(problem.severity == "error" for problem in problems):
        problems += _connect(found, settings, environ)
    checked = Checked(in_order(problems), found)
    return checked if checked.errors else attrs.evolve(checked, notes=differences.notes(reading.application.source))


def _connect(found: Directive, settings: Settings, environ: Mapping[str, str]) -> list[Problem]:
    from atmo_farm.tools import connect

    credentials = environ.get("CREDENTIALS_DIRECTORY")
    try:
        resolved = references.resolve(found, environ, Path(credentials) if credentials else None)
    except UserFilesError as error:  # so far a warning: it may be set where the farm runs
        return list(error.problems)
    return connect.problems(resolved, settings.data_sources)


def _too_many_mappings(found: Directive, max_map_count: Path) -> list[Problem]:
    """A warning for each handler whose instances alone may use up half of what a process may map."""
    try:
        allowed = int(max_map_count.read_text())
    except (OSError, ValueError):
        return []
    problems = []
    for number, handler in enumerate(found.handlers):
        functions = {call.function for step in handler.steps for call in step.calls}
        instances = min(handler.max_in_flight, handler.pool_max) * len(functions)
        if instances * MAPPINGS_PER_INSTANCE > allowed / 2:
            message = (
                f"at full load its {instances:,} Wasm instances need {instances * MAPPINGS_PER_INSTANCE:,} memory "
                f"mappings, and a process may have {allowed:,} for all (vm.max_map_count); lower maxInFlight or "
                "pool.max, or raise the limit with sysctl"
            )
            problems.append(Problem(handler.position, f"handlers[{number}].maxInFlight", message, "warning"))
    return problems
