"""A project folder: `Directive.yaml`, `Queries.yaml`, folders with `.runnable.yaml`, `static/`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import attrs

from atmo_farm.directive import yaml_text, zip_reader
from atmo_farm.directive.application import Reading, reading
from atmo_farm.directive.parse import Parsed, RunnableFile, Texts, parse
from atmo_farm.directive.report import Report, shown
from atmo_farm.errors import Position, Problem, UserFilesError
from atmo_farm.settings import HandlerDefaults

DIRECTIVE = "Directive.yaml"
QUERIES = "Queries.yaml"
STATIC = "static"
RUNNABLE = (".runnable.yaml", ".runnable.yml")
MAX_MODULE_BYTES = 64 << 20
MAX_FOLDERS = 10_000

_NOT_SCANNED = frozenset({"node_modules", "target", "__pycache__"})


@attrs.frozen
class ProjectFiles:
    """Modules and static files of a folder."""

    modules: Mapping[str, Path]
    statics: Mapping[str, Path]

    def module(self, key: str) -> bytes:
        """As `Files.module`."""
        return _bytes(self.modules[key], MAX_MODULE_BYTES)

    def static(self, name: str) -> bytes:
        """As `Files.static`."""
        return _bytes(self.statics[name], MAX_MODULE_BYTES)

    def static_names(self) -> Iterable[str]:
        """As `Files.static_names`."""
        return self.statics


def read(folder: Path, defaults: HandlerDefaults) -> Reading:
    """Read a project folder with all problems of all its files; UserFilesError when one cannot be opened."""
    report = Report()
    directive_file = folder / DIRECTIVE
    if not directive_file.is_file():
        message = f"there is no {DIRECTIVE} in this folder; name a folder that holds one, or a bundle (.zip)"
        raise UserFilesError([Problem(Position(str(folder)), "", message)])
    texts = Texts(
        directive_file=str(directive_file),
        directive=_bytes(directive_file, yaml_text.MAX_BYTES),
        queries_file=str(folder / QUERIES),
        queries=_bytes(folder / QUERIES, yaml_text.MAX_BYTES) if (folder / QUERIES).is_file() else None,
        runnables=tuple(
            RunnableFile(str(file), _bytes(file, yaml_text.MAX_BYTES), file.parent.resolve().name)
            for file in _runnable_files(folder, report)
        ),
    )
    parsed = parse(texts, defaults, report)
    modules = _modules(parsed, report)
    statics = dict(_statics(folder / STATIC, report))
    return reading(parsed, folder, modules, ProjectFiles(modules, statics), report)


def _runnable_files(folder: Path, report: Report) -> Iterator[Path]:
    """The `.runnable.yaml` of each folder below."""
    for entered, (root, _, files) in enumerate(folders(folder, _warning(report, folder))):
        if entered >= MAX_FOLDERS:
            report.error(Position(str(folder)), "", f"more than {MAX_FOLDERS:,} folders; is this the project's folder?")
            return
        found = [path for path in (Path(root) / name for name in RUNNABLE if name in files) if path.is_file()]
        if len(found) > 1:
            report.error(Position(str(found[1]), 1, 1), "", f"{RUNNABLE[0]} is there too; keep one of them")
        yield from found[:1]


def _modules(parsed: Parsed, report: Report) -> dict[str, Path]:
    """The module beside each `.runnable.yaml` that could be read."""
    modules = {}
    wrong = report.wrong_files()
    for runnable in parsed.directive.runnables:
        path = Path(runnable.position.file).parent / f"{runnable.name}.wasm"
        if runnable.position.file in wrong:
            continue
        if not path.is_file():
            message = f"its module {path} is not there; build the function, and put the module beside this file"
            report.error(runnable.position, "name", message)
        elif path.stat().st_size > MAX_MODULE_BYTES:
            report.error(runnable.position, "name", f"its module {path} is larger than {MAX_MODULE_BYTES >> 20} MiB")
        else:
            modules[runnable.key] = path
    return modules


def _statics(folder: Path, report: Report) -> Iterator[tuple[str, Path]]:
    for root, below, files in os.walk(folder, onerror=_warning(report, folder)) if folder.is_dir() else ():
        below.sort()
        for name in sorted(files):
            path = Path(root) / name
            plain = path.relative_to(folder).as_posix()
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                report.warn(Position(str(path)), "", "is a link that leads out of the static folder; it is left out")
            elif not zip_reader.is_safe_name(plain):
                message = f"the name of the static file {shown(plain)} cannot stand in a bundle; rename it"
                report.error(Position(str(folder)), "", message)
            elif path.is_file():
                yield plain, path


def folders(
    folder: Path, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, all folders where functions may be; links are not followed, hidden folders not entered, and no more
    entered than one above MAX_FOLDERS."""
    for root, below, files in islice(os.walk(folder, onerror=onerror), MAX_FOLDERS + 1):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in _NOT_SCANNED)
        yield root, below, files


def _warning(report: Report, folder: Path) -> Callable[[OSError], None]:
    """For what cannot be searched."""

    def warn(error: OSError) -> None:
        report.warn(Position(str(error.filename or folder)), "", f"cannot be searched: {error.strerror}")

    return warn


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        problem = Problem(Position(str(path)), "", f"cannot be read: {error.strerror}")
        raise UserFilesError([problem]) from error
    if len(data) > limit:
        raise UserFilesError([Problem(Position(str(path)), "", f"is larger than {limit >> 20} MiB")])
    return data
