"""Compiled modules on disk: machine code, so only what this farm wrote is loaded, and only as it was written.

    <folder>/<key>.<checksum>.cwasm     0600, in a folder 0700, both ours; the checksum is the file's own SHA-256

A file is opened once, never through a symlink; owner, mode and checksum are those of the open file, and that is what
is then mapped (/proc/self/fd/N), so nothing can be exchanged in between. Children share the mapping's pages.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atmo_farm.errors import CannotStart

SUFFIX = ".cwasm"
_CHUNK = 16 << 10
"""Bytes that are read at once: hashlib's own 256 KiB would stay with every child that loads a module."""

_ABANDONED_S = 3600
"""A temporary file older than this belongs to a process that died while it wrote."""


class BadFile(CannotStart):
    """A compiled module that must not be loaded: damaged, foreign, or readable by others."""


def folder(path: Path) -> Path:
    """Make the folder if need be; CannotStart unless it is a real folder, ours, and closed to others."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise CannotStart(f"{path}: the module cache cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise CannotStart(f"{path}: the module cache must be a folder of this user with mode 0700")
    return path


@contextmanager
def opened(path: Path) -> Iterator[str]:
    """The path of an open, checked file, good until the end of the block; BadFile says what is wrong with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}; reload or restart the farm to compile it again") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise BadFile(f"{path}: not a file of this user with mode 0600, so it is not loaded; remove it")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            checksum = digest.hexdigest()
        if path.name.split(".")[1:2] != [checksum]:
            raise BadFile(f"{path}: damaged (its checksum is wrong), so it is not loaded; remove it")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def find(directory: Path, key: str, usable: Callable[[str], None]) -> Path | None:
    """The good file of this key, if there is one; bad ones, and those that `usable` raises BadFile for, are removed."""
    for path in sorted(directory.glob(f"{key}.*{SUFFIX}")):
        try:
            with opened(path) as checked:
                usable(checked)
        except BadFile:
            path.unlink(missing_ok=True)
        else:
            return path
    return None


def store(directory: Path, key: str, data: bytes) -> Path:
    """Write a file for good: whole or not at all, also when the machine stops. CannotStart if that is not possible."""
    path = directory / f"{key}.{hashlib.sha256(data).hexdigest()}{SUFFIX}"
    temporary = directory / f".{path.name}.{secrets.token_hex(8)}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(directory)
    except OSError as error:
        raise CannotStart(f"{path}: the compiled module cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def remove_others(directory: Path, keep: Iterable[str]) -> int:
    """Remove every compiled file whose name is not in `keep`, and abandoned temporary ones; how many."""
    kept = set(keep)
    removed = 0
    for path in directory.iterdir():
        if path.name.startswith("."):
            unwanted = SUFFIX in path.name and _age_s(path) > _ABANDONED_S
        else:
            unwanted = path.suffix == SUFFIX and path.name not in kept
        if unwanted:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except FileNotFoundError:  # it has just become a compiled file
        return 0.0


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
