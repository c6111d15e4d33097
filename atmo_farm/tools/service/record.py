"""What `install-service` has written, and as what: so that only that is ever replaced or taken away."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import attrs

from atmo_farm.errors import CannotStart

NAME = "installed.json"


def checksum(content: bytes) -> str:
    """As the record keeps it."""
    return hashlib.sha256(content).hexdigest()


@attrs.define
class Record:
    """Files with their checksums, and folders, by their paths as the service sees them."""

    path: Path
    files: dict[str, str]
    folders: set[str]

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record; an empty one if there is none. CannotStart if what is there is no record."""
        try:
            content: Any = json.loads(path.read_bytes())
            return cls(path, dict(content["files"]), set(content["folders"]))
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, {}, set())
        except OSError as error:
            raise CannotStart(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CannotStart(f"{path} is not what install-service has written; move it away") from error

    def write(self) -> None:
        """Keep it; without entries, remove it."""
        if not self.files and not self.folders:
            self.path.unlink(missing_ok=True)
            return
        content = {"files": dict(sorted(self.files.items())), "folders": sorted(self.folders)}
        replace(self.path, (json.dumps(content, indent=2) + "\n").encode(), 0o644)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Write the file with this mode, wholly or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, mode)
    unfinished.replace(path)
