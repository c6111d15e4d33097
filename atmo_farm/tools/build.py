"""The job behind `atmo-farm build`: from a project folder to a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from atmo_farm import directive
from atmo_farm.directive import build as directive_build
from atmo_farm.errors import CannotStart, Problem, UserFilesError
from atmo_farm.settings import Settings
from atmo_farm.tools.check import check


@attrs.frozen
class Built:
    """A bundle that was written."""

    path: Path
    size: int
    """Bytes."""
    functions: int
    warnings: tuple[Problem, ...]


def build(source: Path, target: Path, settings: Settings, environ: Mapping[str, str]) -> Built:
    """Check the application as `check` does and write its bundle.

    UserFilesError with every problem, and then nothing is written; what this build of the farm does not serve is no
    problem here, another one may. CannotStart if the bundle cannot be written.
    """
    checked = check(source, settings, environ)
    if checked.errors:
        raise UserFilesError(checked.problems)
    application = directive.load(source, settings.defaults)
    try:
        directive_build.write_bundle(application, target)
        size = target.stat().st_size
    except OSError as error:
        raise CannotStart(f"the bundle {target} cannot be written: {error.strerror}; name another with -o") from error
    return Built(target, size, len(application.directive.runnables), checked.warnings)
