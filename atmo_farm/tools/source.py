"""Which application a command is about."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from atmo_farm.errors import CannotStart
from atmo_farm.settings import Settings

BUNDLE_NAME = "runnables.wasm.zip"
LOOK_EVERY_S = 1.0


def find(named: Path | None, settings: Settings) -> Path:
    """What the command line names, else ATMO_BUNDLE_PATH, else ./runnables.wasm.zip, else the current folder."""
    if named is not None:
        return absolute(named)
    if settings.bundle_path is not None:
        return settings.bundle_path
    bundle = absolute(Path(BUNDLE_NAME))
    return bundle if bundle.exists() else bundle.parent


def absolute(path: Path) -> Path:
    """The path from the root on; CannotStart if it is relative and the working folder is gone."""
    try:
        return path.absolute()
    except OSError as error:
        raise CannotStart(f"the working folder is gone ({error.strerror}); cd to one that is there") from error


def wait_for(source: Path, sleep: Callable[[float], None] = time.sleep) -> None:
    """Return when the application is there: the bundle's file, or the folder's Directive."""
    while not (source.is_file() or (source / "Directive.yaml").is_file()):
        sleep(LOOK_EVERY_S)
