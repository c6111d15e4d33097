"""Dead letters on this machine's disk, for those that no broker keeps: a folder for each handler, a file for each.

    state/dead/<handler>/lock             whoever writes or removes holds it (flock); its text: bytes of all letters
    state/dead/<handler>/<id>.letter      one letter
    state/dead/<handler>/<id>.new         one that is being written, or was when its writer was killed

    atmo-dead-letter 1 <bytes of the head> <their CRC-32> <bytes of the payload> <their CRC-32>\\n
    <the head: a JSON object with id, headers (pairs), key>\\n
    <the payload>

A letter has its name only when it is whole and on the disk. The id is made of what it holds, so that one that is kept
twice, by a worker that was killed before it could say so, is there once.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import stat
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from atmo_farm import clock, log
from atmo_farm.errors import CannotStart, PublishError
from atmo_farm.folders import ensure_private_folder
from atmo_farm.streams.base import Kept, Output

logger = logging.getLogger("atmo_farm.delivery")

MAGIC = b"atmo-dead-letter 1 "
LONGEST_FIRST_LINE = 100
LONGEST_HEAD = 16 << 20
LOCK, LETTER, NEW = "lock", ".letter", ".new"

LOCK_S = 5.0
"""How long to wait for another process that writes: longer, and it is stopped."""
LOCK_LOOK_S = 0.005

READ_AT_ONCE = 50
"""Letters between two turns of the loop."""


class NotALetterError(Exception):
    """A file that is torn, was changed, or never was a letter; the text says which."""


class Spool:
    """The letters of one handler; any number of processes may have one on the same folder."""

    def __init__(self, state: Path, handler: str, limit: int):
        """`limit` is bytes of files: with more of them no letter is kept."""
        self._folder = state / "dead" / handler
        self._limit = limit
        self._counted = False

    async def keep(self, letter: Output) -> None:
        """Returns when it is on the disk. PublishError when it cannot be: there may be room later."""
        data = _encode(letter)
        name = identity(letter)
        try:
            ensure_private_folder(self._folder)
            async with self._locked() as lock:
                before = self._size(name + LETTER)
                if before is None or not self._is_whole(name + LETTER, letter):
                    self._write(name, data, before or 0, lock)
        except CannotStart as error:
            raise PublishError(str(error), transient=True) from error
        except OSError as error:
            raise PublishError(f"the spool {self._folder}: {error.strerror or error}", transient=True) from error

    async def letters(self, since_s: float | None = None) -> AsyncIterator[Kept]:
        """Those that are whole, the oldest first, without payloads; of each other file there is a line in the log."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.stat(follow_symlinks=False).st_mtime, entry.name))
        for number, (kept_s, name) in enumerate(sorted(found)):
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
            if name == LOCK or name.endswith(NEW) or (since_s is not None and kept_s < since_s):
                continue
            try:
                yield self._read(name, payload=False)
            except FileNotFoundError:
                pass  # removed meanwhile
            except (NotALetterError, OSError) as error:
                text = "a file among the dead letters is passed over"
                log.event(logger, logging.WARNING, text, file=str(self._folder / name), reason=str(error))

    async def load(self, letter_id: str) -> Kept | None:
        """A letter with its payload; None when there is none of this id, or its file is no letter any more."""
        try:
            return self._read(letter_id + LETTER, payload=True) if letter_id.isalnum() else None
        except (NotALetterError, OSError):
            return None

    async def remove(self, letter_id: str) -> bool:
        """Whether it was there. PublishError when it cannot be removed."""
        path = self._folder / (letter_id + LETTER)
        try:
            if not letter_id.isalnum() or not path.exists():
                return False
            async with self._locked() as lock:
                size = path.stat().st_size
                path.unlink()
                lock.write(lock.used - size)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise PublishError(f"the spool {self._folder}: {error.strerror or error}", transient=True) from error
        return True

    def _size(self, name: str) -> int | None:
        """Bytes of what has this name; None: nothing has."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / name).lstat().st_size
        return None

    def _is_whole(self, name: str, letter: Output) -> bool:
        """Whether the file is this letter, and not one that was torn or changed since."""
        with contextlib.suppress(NotALetterError, OSError):
            return self._read(name, payload=True).data == letter.data
        return False

    def _write(self, name: str, data: bytes, before: int, lock: _Lock) -> None:
        """`before` is bytes of what has the name until now."""
        if lock.used - before + len(data) > self._limit:
            text = f"the spool {self._folder} is full: its letters have {lock.used} bytes and {self._limit} are allowed"
            raise PublishError(f"{text}; replay or purge them", transient=True)
        new = self._folder / (name + NEW)
        try:
            with open(new, "wb", opener=_private) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.rename(self._folder / (name + LETTER))
        except OSError:
            new.unlink(missing_ok=True)
            raise
        _sync(self._folder)
        lock.write(lock.used - before + len(data))

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[_Lock]:
        descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            end = clock.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if clock.monotonic() >= end:
                        raise BlockingIOError(errno.EWOULDBLOCK, "another process does not let go of it") from None
                    await asyncio.sleep(LOCK_LOOK_S)
            lock = _Lock(descriptor)
            if not self._counted or lock.used < 0:
                lock.write(self._count())
                self._counted = True
            yield lock
        finally:
            os.close(descriptor)

    def _count(self) -> int:
        """Bytes of all letters. Whoever holds the lock writes, so what is unfinished was left by the dead."""
        used = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(NEW):
                    Path(entry.path).unlink()
                elif entry.name.endswith(LETTER):
                    used += entry.stat(follow_symlinks=False).st_size
        _sync(self._folder.parent)
        return used

    def _read(self, name: str, payload: bool) -> Kept:
        if not name.endswith(LETTER):
            raise NotALetterError("its name is not that of a letter")
        with open(self._folder / name, "rb", opener=_careful) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise NotALetterError("it is no file")
            head_size, head_crc, size, crc = _first_line(file.readline(LONGEST_FIRST_LINE))
            if file.tell() + head_size + 1 + size != found.st_size or head_size > LONGEST_HEAD:
                raise NotALetterError("it is torn")
            head = file.read(head_size + 1)
            if zlib.crc32(head[:-1]) != head_crc:
                raise NotALetterError("its head was changed")
            data = file.read(size) if payload else b""
            if payload and zlib.crc32(data) != crc:
                raise NotALetterError("its payload was changed")
        try:
            return _decode(json.loads(head), name.removesuffix(LETTER), size, found.st_mtime, data)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise NotALetterError("its head is none") from error


class _Lock:
    """What holds it may change the folder; its file knows how much is in there."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        text = os.pread(descriptor, 32, 0)
        self.used = int(text) if text.strip().isdigit() else -1
        """Bytes of all letters; below 0: not known."""

    def write(self, used: int) -> None:
        """Say how much is in there now."""
        self.used = max(0, used)
        os.pwrite(self._descriptor, b"%-31d\n" % self.used, 0)


def identity(letter: Output) -> str:
    """The id of a letter in the spool: the same for the same letter, 17 characters."""
    return "s" + hashlib.sha256(letter.id.encode("utf-8", "surrogatepass") + b"\0" + letter.data).hexdigest()[:16]


def _encode(letter: Output) -> bytes:
    key = None if letter.record_key is None else base64.b64encode(letter.record_key).decode()
    head = {"id": letter.id, "headers": [*letter.original, *letter.headers.items()], "key": key}
    text = json.dumps(head).encode()
    sizes = (len(text), zlib.crc32(text), len(letter.data), zlib.crc32(letter.data))
    return MAGIC + b"%d %d %d %d\n" % sizes + text + b"\n" + letter.data


def _decode(head: dict[str, Any], name: str, size: int, kept_s: float, data: bytes) -> Kept:
    key = None if head["key"] is None else base64.b64decode(head["key"])
    headers = tuple((str(name), str(value)) for name, value in head["headers"])
    return Kept(name, str(head["id"]), headers, size, kept_s, key, data)


def _first_line(line: bytes) -> list[int]:
    words = line.removeprefix(MAGIC).split()
    if not line.startswith(MAGIC) or not line.endswith(b"\n") or len(words) != 4 or not all(map(bytes.isdigit, words)):
        raise NotALetterError("it does not begin as a letter does")
    return list(map(int, words))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _careful(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
