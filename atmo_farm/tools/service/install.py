"""Writing a service's files and taking them away; what a person has changed since stays as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from atmo_farm.errors import CannotStart
from atmo_farm.tools.service import record
from atmo_farm.tools.service.place import Place
from atmo_farm.tools.service.record import Record, checksum


@attrs.frozen
class Step:
    """One path, and what became of it."""

    done: str
    """wrote, updated, made, unchanged, kept, removed"""
    path: Path
    why: str = ""

    @property
    def changes(self) -> bool:
        """Whether something is other than before."""
        return self.done not in ("unchanged", "kept")


@attrs.frozen
class File:
    """A file to be written."""

    path: Path
    content: str
    mode: int


def install(place: Place, files: tuple[File, ...], dry_run: bool) -> tuple[Step, ...]:
    """Make the folders and write the files that are missing or as they were written before.

    CannotStart if one cannot be written.
    """
    steps: list[Step] = []
    try:
        written = Record.read(place.real(place.record))
        steps += [_make(folder, mode, place, written, dry_run) for folder, mode in place.folders]
        steps += [_write(file, place, written, dry_run) for file in files]
        if not dry_run:
            written.write()
    except OSError as error:
        raise _cannot(error) from error
    return tuple(steps)


def remove(place: Place, dry_run: bool) -> tuple[Step, ...]:
    """Take away what `install` wrote for this place; the unit only with the last of its services.

    CannotStart if something cannot be removed.
    """
    steps: list[Step] = []
    gone: list[Path] = []
    try:
        written = Record.read(place.real(place.record))
        files = [Path(path) for path in written.files]
        others = [path for path in files if path != place.unit and not place.owns(path)]
        for path in files:
            if path == place.unit and any(place.shares_unit(other) for other in others):
                steps.append(Step("kept", path, "other services use it"))
            elif path not in others:
                steps += _remove_file(path, place.real(path), written, gone, dry_run)
        for folder, _ in reversed(place.folders):
            if str(folder) in written.folders and not (others and folder == place.config):
                steps.append(_leave_folder(folder, place, gone))
        written.folders -= {str(step.path) for step in steps if step.done == "removed"}
        if not dry_run:
            written.write()
            for folder, _ in reversed(place.folders):
                if place.real(folder) in gone:
                    place.real(folder).rmdir()
    except OSError as error:
        raise _cannot(error) from error
    return tuple(steps)


def _make(folder: Path, mode: int, place: Place, written: Record, dry_run: bool) -> Step:
    real = place.real(folder)
    if real.is_dir():
        return Step("unchanged", folder)
    if not dry_run:
        real.mkdir(parents=True)
        real.chmod(mode)
        written.folders.add(str(folder))
        written.write()
    return Step("made", folder)


def _write(file: File, place: Place, written: Record, dry_run: bool) -> Step:
    real, content = place.real(file.path), file.content.encode()
    now = real.read_bytes() if os.path.lexists(real) else None
    if now == content:
        return Step("unchanged", file.path)
    if now is not None and checksum(now) != written.files.get(str(file.path)):
        return Step("kept", file.path, "it was changed by hand; move it away to get a new one")
    if not dry_run:
        real.parent.mkdir(parents=True, exist_ok=True)
        record.replace(real, content, file.mode)
        written.files[str(file.path)] = checksum(content)
        written.write()
    return Step("wrote" if now is None else "updated", file.path)


def _remove_file(path: Path, real: Path, written: Record, gone: list[Path], dry_run: bool) -> Iterator[Step]:
    known = written.files[str(path)]
    if not os.path.lexists(real):
        del written.files[str(path)]
    elif checksum(real.read_bytes()) != known:
        yield Step("kept", path, "it was changed by hand")
    else:
        if not dry_run:
            real.unlink()
        del written.files[str(path)]
        gone.append(real)
        yield Step("removed", path)


def _leave_folder(folder: Path, place: Place, gone: list[Path]) -> Step:
    """The folder goes if nothing is in it but what goes as well."""
    real = place.real(folder)
    left = sorted(set(real.iterdir()) - {*gone, place.real(place.record)}) if real.is_dir() else []
    if left:
        return Step("kept", folder, f"there is more in it: {', '.join(path.name for path in left[:5])}")
    gone.append(real)
    return Step("removed", folder)


def _cannot(error: OSError) -> CannotStart:
    return CannotStart(f"{error.filename or 'a file'}: {error.strerror}; nothing after it was done")
