"""An application: a valid Directive together with its modules and static files, wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import attrs

from atmo_farm.directive import references
from atmo_farm.directive.model import Directive
from atmo_farm.directive.parse import Parsed
from atmo_farm.directive.report import Report, in_order
from atmo_farm.errors import NotFound, Position, Problem, UserFilesError


class Files(Protocol):
    """Where modules and static files are read from; both by names that `load` has found."""

    def module(self, key: str) -> bytes:
        """The module of `namespace::name`."""

    def static(self, name: str) -> bytes:
        """A static file, by its path below `static/`."""

    def static_names(self) -> Iterable[str]:
        """All static files."""


@attrs.frozen
class Application:
    """Equal applications have equal Directives; compare modules by `digest`."""

    directive: Directive
    warnings: tuple[Problem, ...] = attrs.field(eq=False)
    path: Path = attrs.field(eq=False)
    """The folder or bundle that it was read from."""
    source: Parsed = attrs.field(eq=False, repr=False)
    """What it was read from, for writing it again."""
    _files: Files = attrs.field(eq=False, repr=False)
    _digests: dict[str, str] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def module(self, key: str) -> bytes:
        """The wasm of runnable `namespace::name`.

        KeyError for an unknown key; UserFilesError when the file cannot be read or is not the one that was read
        before: all who read an application must see the same modules.
        """
        self.directive.runnable(key)
        wasm = self._files.module(key)
        digest = hashlib.sha256(wasm).hexdigest()
        if self._digests.setdefault(key, digest) != digest:
            problem = Problem(Position(str(self.path)), key, "its module changed while it was being read; try again")
            raise UserFilesError([problem])
        return wasm

    def digest(self, key: str) -> str:
        """The SHA-256 of a module, in hexadecimal digits."""
        if key not in self._digests:
            self.module(key)
        return self._digests[key]

    def static(self, name: str) -> bytes:
        """A static file; a leading `static/`, `/` or `./` of its name is dropped. NotFound if there is none."""
        plain = static_name(name)
        if plain not in set(self._files.static_names()):
            raise NotFound(f"there is no static file {plain!r}")
        return self._files.static(plain)

    def static_names(self) -> tuple[str, ...]:
        """The names of all static files, in order."""
        return tuple(sorted(self._files.static_names()))

    def resolved(self, environ: Mapping[str, str], credentials_dir: Path | None) -> Application:
        """The same application with all references resolved; raises as `references.resolve`."""
        return attrs.evolve(self, directive=references.resolve(self.directive, environ, credentials_dir))


@attrs.frozen
class Reading:
    """What came of reading an application's files: with an error among the problems, `application` is a part of one."""

    application: Application
    """Its functions are those whose modules are there."""
    problems: tuple[Problem, ...]
    """In the order of their places."""

    @property
    def is_whole(self) -> bool:
        """Whether the application can be used."""
        return all(problem.severity == "warning" for problem in self.problems)

    def whole(self) -> Application:
        """The application; UserFilesError with all problems if it is only a part of one."""
        if not self.is_whole:
            raise UserFilesError(self.problems)
        return self.application


def reading(parsed: Parsed, path: Path, modules: Collection[str], files: Files, report: Report) -> Reading:
    """Put the parts together; `modules` are the functions whose modules are there."""
    runnables = tuple(runnable for runnable in parsed.directive.runnables if runnable.key in modules)
    directive = attrs.evolve(parsed.directive, runnables=runnables)
    return Reading(Application(directive, report.warnings(), path, parsed, files), in_order(report.problems))


def static_name(name: str) -> str:
    """The name of a static file as it is kept: without `static/`, `/` and `./` before it, each once at most."""
    prefixes = ["static/", "/", "./"]
    while prefix := next((prefix for prefix in prefixes if name.startswith(prefix)), ""):
        prefixes.remove(prefix)
        name = name.removeprefix(prefix)
    return name
