"""What an application's files look like from outside: whether one has changed, without reading any."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from atmo_farm.directive import project


def footprint(source: Path) -> str:
    """Of a bundle, or of all files of a project folder that `load` may read: another one when any of them was written,
    replaced, added or removed. Empty while there is no application, or it cannot be looked at."""
    try:
        if not source.is_dir():
            return _hashed([source])
        if not (source / project.DIRECTIVE).is_file():
            return ""
        return _hashed(path for path in sorted(_project(source)) if path.exists())
    except OSError:
        return ""


def _hashed(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        now = path.stat()
        found.update(os.fsencode(f"{path}\0{now.st_ino} {now.st_size} {now.st_mtime_ns}\n"))
    return found.hexdigest()


def _project(folder: Path) -> Iterator[Path]:
    yield from (folder / project.DIRECTIVE, folder / project.QUERIES)
    for root, _, files in project.folders(folder):
        yield from (Path(root) / name for name in files if name in project.RUNNABLE or name.endswith(".wasm"))
    for root, _, files in os.walk(folder / project.STATIC):
        yield from (Path(root) / name for name in files)
