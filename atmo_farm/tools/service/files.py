"""What stands in a service's files, and what the service will not be able to see."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from atmo_farm.directive.connections import Reference
from atmo_farm.errors import CannotStart
from atmo_farm.tools.service.install import File
from atmo_farm.tools.service.place import Place
from atmo_farm.tools.service.unit import unit_text

COMMAND = "atmo-farm"
_HIDDEN = tuple(Path(path) for path in ("/home", "/root", "/run/user", "/tmp", "/var/tmp"))


def command() -> Path:
    """The command that the unit starts: the one of this Python, else that on PATH. CannotStart if there is none."""
    found = Path(sys.executable).parent / COMMAND
    if found.is_file():
        return found
    on_path = shutil.which(COMMAND)
    if on_path is None:
        raise CannotStart(f"the command {COMMAND} is neither beside {sys.executable} nor on PATH; install it there")
    return Path(on_path).absolute()


def files(place: Place, executable: Path, app: Path, references: Iterable[Reference]) -> tuple[File, ...]:
    """The unit, the settings and the environment of a service that runs this application."""
    return (
        File(place.unit, unit_text(_quoted(executable), user=place.user, template=bool(place.name)), 0o644),
        File(place.settings, _settings(place, app), 0o644),
        File(place.environment, _environment(place, names(references, "env")), 0o600),
    )


def names(references: Iterable[Reference], kind: str) -> tuple[str, ...]:
    """The names that the references of this kind have, each once."""
    return tuple(dict.fromkeys(reference.name for reference in references if reference.kind == kind))


def unseen(path: Path, place: Place) -> str:
    """Why the service cannot read this file or folder; empty if it can. A user's service sees what the user sees."""
    if place.user:
        return ""
    real = path.resolve()
    for hidden in _HIDDEN:
        if real.is_relative_to(hidden):
            return f"the service sees nothing in {hidden}; move it to /srv or /opt"
    for part in (real, *real.parents):
        mode = part.stat().st_mode
        wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0) if part == real else stat.S_IXOTH
        if mode & wanted != wanted:
            return f"the service's user may not read {part}; chmod o+rX it"
    return ""


def _settings(place: Place, app: Path) -> str:
    return f"""\
# The settings of the service {place.service}; `atmo-farm config --config {place.settings}` shows all that
# are in force. This is the only one that it cannot do without:
app:
  bundlePath: {json.dumps(str(app), ensure_ascii=False)}
"""


def _environment(place: Place, variables: tuple[str, ...]) -> str:
    lines = "".join(f"#{name}=\n" for name in variables)
    return f"""\
# Variables of the service {place.service}, NAME=value: what the Directive's env(NAME) stand for. They are read when the
# service starts. Secrets are better kept in {place.credentials}.
{lines}"""


def _quoted(path: Path) -> str:
    """As a unit has the command of a line, where a blank ends a word and % means something.

    CannotStart for what systemd does not start.
    """
    text = str(path)
    if any(char in "\"'\\" or not char.isprintable() for char in text):
        raise CannotStart(
            f"systemd starts no command whose path has quotes, backslashes or control characters: {text!r}"
        )
    text = text.replace("%", "%%")
    return f'"{text}"' if " " in text else text
