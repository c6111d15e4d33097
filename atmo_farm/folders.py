"""The farm's two folders: run (pid file, sockets) and state (module cache, generations, instance id)."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import attrs

from atmo_farm.errors import CannotStart
from atmo_farm.settings import Settings

SOCKET_PATH_LIMIT = 100
"""Bytes of the longest socket path that the farm makes; the kernel's own limit is 107."""

CONTROL_SOCKET = "control.sock"

LONGEST_SOCKET_NAME = "datasource.sock"
"""The longest file name that the farm gives to a socket in the run folder."""


TEMPORARY = "/tmp/atmo-farm-{uid}"
"""What holds a user's run folders outside of a session."""

SYSTEM_PLACE = Path("/run/atmo-farm")
"""What holds the run folders of the system's services."""

_ADVICE = "name another with --run-dir or --state-dir"


@attrs.frozen
class Folders:
    """Both folders, absolute; they need not exist yet (`ensure_private_folder`)."""

    run: Path
    state: Path


def folders(settings: Settings, identifier: str, environ: Mapping[str, str]) -> Folders:
    """Where this application's farm keeps its files: settings (flags and variables are in them), then what systemd
    gives, then the user's own place.

    CannotStart if a socket in the run folder would have a path of over 100 bytes.
    """
    name = _file_name(identifier)
    run = (run_folder(settings, environ) or _own_places(environ)[0] / name).absolute()
    state = settings.state_dir or _given(environ, "STATE_DIRECTORY")
    if state is None:
        state = _home(environ) / ".local/state/atmo-farm" / name
    length = len(os.fsencode(run / LONGEST_SOCKET_NAME))
    if length > SOCKET_PATH_LIMIT:
        raise CannotStart(
            f"the run folder {run} is too long: its sockets would have paths of {length} bytes and "
            f"{SOCKET_PATH_LIMIT} are allowed; give a shorter one with --run-dir"
        )
    return Folders(run, state.absolute())


def run_folder(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """The run folder, where settings or systemd name it; else each application has one of its own."""
    return settings.run_dir or _given(environ, "RUNTIME_DIRECTORY")


def run_folders(settings: Settings, environ: Mapping[str, str]) -> list[Path]:
    """All folders that may be the run folder of a farm, of this user or of the system, as far as we may look."""
    named = run_folder(settings, environ)
    places = [*filter(_is_ours, _own_places(environ)), SYSTEM_PLACE]
    found = [*([named.absolute()] if named else []), *places]
    for place in places:
        try:
            found += sorted(place.iterdir())
        except OSError:
            pass
    return list(dict.fromkeys(folder for folder in found if folder.is_dir()))


def ensure_private_folder(path: Path) -> None:
    """Make the folder and what is missing above it, for this user alone (0700), or check that it is that already.

    A folder of ours with wider permissions is narrowed. CannotStart if it is a symbolic link, no folder, somebody
    else's, lies below somebody else's folder in a place where everybody may make one (/tmp), or cannot be made.
    """
    try:
        for missing in reversed([folder for folder in (path, *path.parents) if not os.path.lexists(folder)]):
            missing.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        what = "it is a symbolic link" if path.is_symlink() else (error.strerror or str(error))
        raise CannotStart(f"the folder {path} cannot be used: {what}; {_ADVICE}") from error
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise CannotStart(f"the folder {path} belongs to user id {found.st_uid}, not to {os.geteuid()}; {_ADVICE}")
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    for way in (path.parent, path.parent.resolve()):
        for above in way.parents:
            _check_public(above, way, path)


def _check_public(above: Path, way: Path, path: Path) -> None:
    """Where everybody may make things, the folder or link on the way to ours must not be another user's, who could
    move it."""
    if not above.stat().st_mode & stat.S_IWOTH:
        return
    step = above / way.relative_to(above).parts[0]
    if step.lstat().st_uid not in (0, os.geteuid()):
        raise CannotStart(f"the folder {path} lies in {step}, which is another user's; {_ADVICE}")


def _own_places(environ: Mapping[str, str]) -> list[Path]:
    """Where this user's run folders are; the first is for new ones."""
    session = environ.get("XDG_RUNTIME_DIR")
    return [*([Path(session) / "atmo-farm"] if session else []), Path(TEMPORARY.format(uid=os.geteuid()))]


def _is_ours(place: Path) -> bool:
    """Whether it is a folder that only we, or root, can have put there: in /tmp anybody makes what they like."""
    try:
        found = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid())


def _home(environ: Mapping[str, str]) -> Path:
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError as error:
        raise CannotStart("there is no home folder to keep the state in; name a place with --state-dir") from error


def _given(environ: Mapping[str, str], name: str) -> Path | None:
    """A folder that systemd made for the service; it separates several by colons and the first is ours.

    With DynamicUser it is a link into /var/lib/private, made by root: the only one that is followed.
    """
    first = environ.get(name, "").split(":")[0]
    return Path(first).resolve() if first else None


def _file_name(identifier: str) -> str:
    """The identifier as one path component: a Directive that is still unchecked must not name a folder elsewhere."""
    name = "".join(char if char.isalnum() or char in "-_." else "_" for char in identifier)
    return name if name.strip(".") else "_"
