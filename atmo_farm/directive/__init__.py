"""The user's files: reading, checking, writing and comparing applications.

The way of reading, file by file: `project` or `bundle` finds the texts → `parse` → `yaml_tree` (texts to trees with
places) → `keys/` (trees to sections, by the key tables) → `parse_*` (sections to the `model`, with all that one key
may say about another) → `application`.
"""

from __future__ import annotations

from pathlib import Path

from atmo_farm.directive import bundle, project
from atmo_farm.directive.application import Application, Reading
from atmo_farm.directive.changes import Diff, diff
from atmo_farm.errors import Position, Problem, UserFilesError
from atmo_farm.settings import HandlerDefaults

__all__ = ["Application", "Diff", "Reading", "diff", "load", "read"]


def load(path: Path, defaults: HandlerDefaults | None = None) -> Application:
    """Read the application in a project folder or a bundle.

    `defaults` hold for what handlers leave out. Raises UserFilesError with every problem of every file, in the order
    of their places; nothing else, whatever the files hold.
    """
    return read(path, defaults).whole()


def read(path: Path, defaults: HandlerDefaults | None = None) -> Reading:
    """As `load`, but what could be read comes back even with problems: some of it may be checked further.

    UserFilesError only where nothing can be read: no such folder, a damaged bundle.
    """
    defaults = defaults or HandlerDefaults()
    try:
        if path.is_dir():
            return project.read(path, defaults)
        if path.is_file():
            return bundle.read(path, defaults)
    except OSError as error:
        raise UserFilesError([Problem(Position(str(error.filename or path)), "", f"{error.strerror}")]) from error
    message = "is neither a project folder nor a bundle; there is nothing with this name"
    raise UserFilesError([Problem(Position(str(path)), "", message)])
