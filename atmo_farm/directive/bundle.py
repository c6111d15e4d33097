"""Reading a bundle: a zip with `Directive.yaml`, a `.wasm` for each function, and `static/`.

Other files at its root are ignored, as Atmo does. Everything is read into memory when it is asked for; nothing is
ever unpacked to disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from atmo_farm.directive import yaml_text, zip_reader
from atmo_farm.directive.application import Reading, reading
from atmo_farm.directive.model import Runnable
from atmo_farm.directive.parse import Parsed, Texts, parse
from atmo_farm.directive.report import Report, did_you_mean
from atmo_farm.directive.zip_reader import BadZipError, ZipEntry
from atmo_farm.errors import Position, Problem, UserFilesError
from atmo_farm.settings import HandlerDefaults

DIRECTIVE = "Directive.yaml"
STATIC = "static/"


@attrs.frozen
class BundleFiles:
    """Modules and static files of a bundle."""

    path: Path
    identity: tuple[int, int, int, int]
    """Of the archive that was read, so that another one in its place is noticed."""
    modules: Mapping[str, ZipEntry]
    statics: Mapping[str, ZipEntry]

    def module(self, key: str) -> bytes:
        """As `Files.module`."""
        return self._read(self.modules[key])

    def static(self, name: str) -> bytes:
        """As `Files.static`."""
        return self._read(self.statics[name])

    def static_names(self) -> Iterable[str]:
        """As `Files.static_names`."""
        return self.statics

    def _read(self, entry: ZipEntry) -> bytes:
        try:
            with self.path.open("rb") as file:
                if _identity(os.fstat(file.fileno())) != self.identity:
                    raise BadZipError("was replaced while it was being read; try again")
                return zip_reader.read(file, entry)
        except BadZipError as error:
            raise UserFilesError([_problem(self.path, error)]) from error
        except OSError as error:
            raise UserFilesError(
                [Problem(Position(str(self.path)), "", f"cannot be read: {error.strerror}")]
            ) from error


def read(path: Path, defaults: HandlerDefaults) -> Reading:
    """Read a bundle with all problems of its Directive; UserFilesError when it is damaged or harmful."""
    try:
        with path.open("rb") as file:
            identity = _identity(os.fstat(file.fileno()))
            found = zip_reader.entries(file)
            directive = found.get(DIRECTIVE)
            if directive is None:
                near = did_you_mean(DIRECTIVE, found)
                raise BadZipError(f"holds no {DIRECTIVE} at its root{near}")
            if directive.size > yaml_text.MAX_BYTES:
                raise BadZipError(f"is larger than {yaml_text.MAX_BYTES >> 20} MiB", DIRECTIVE)
            text = zip_reader.read(file, directive)
            zip_reader.verify(file, found.values())
    except BadZipError as error:
        raise UserFilesError([_problem(path, error)]) from error
    except OSError as error:
        raise UserFilesError([Problem(Position(str(path)), "", f"cannot be read: {error.strerror}")]) from error
    report = Report()
    parsed = parse(Texts(directive_file=f"{path}/{DIRECTIVE}", directive=text), defaults, report)
    modules = _modules(parsed, found, path, report)
    statics = {name.removeprefix(STATIC): entry for name, entry in found.items() if name.startswith(STATIC)}
    return reading(parsed, path, modules, BundleFiles(path, identity, modules, statics), report)


def _modules(parsed: Parsed, found: Mapping[str, ZipEntry], path: Path, report: Report) -> dict[str, ZipEntry]:
    """Each function's module: under the name that we give it, or with its namespace in any case."""
    modules: dict[str, ZipEntry] = {}
    if any(problem.key.startswith("runnables") for problem in report.problems) or not parsed.directive.runnables:
        return modules  # what is not known to be a function would only be told a second time
    used: set[str] = set()
    for runnable in parsed.directive.runnables:
        name = _module_name(runnable, found)
        if name is None:
            report.error(runnable.position, "runnables", f"its module `{runnable.module}` is not in the bundle")
            continue
        used.add(name)
        modules[runnable.key] = found[name]
    for name in sorted(found):
        if name.endswith(".wasm") and not name.startswith(STATIC) and name not in used:
            report.error(Position(f"{path}/{name}"), "", "no function of the bundle's Directive has this module")
    return modules


def _module_name(runnable: Runnable, found: Mapping[str, ZipEntry]) -> str | None:
    full = f"{runnable.namespace}.{runnable.name}.wasm"
    return next((name for name in (runnable.module, full) if name in found), None)


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _problem(path: Path, error: BadZipError) -> Problem:
    place = f"{path}/{error.name!r}" if error.name and not error.name.isprintable() else f"{path}/{error.name}"
    return Problem(Position(place if error.name else str(path)), "", str(error))
