"""Where the files of a service are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from atmo_farm.errors import CannotStart
from atmo_farm.tools.service import record
from atmo_farm.tools.service.unit import PLAIN

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
RESERVED = ("credentials", PLAIN, ".", "..", "atmo-farm.yaml", "environment", record.NAME)
"""Names of what else is in the folder that holds those of the services, or in the run folder."""


@attrs.frozen
class Place:
    """The service of this name, or with an empty one the plain service; all paths are as the service sees them."""

    name: str
    user: bool
    units: Path
    """The folder of units."""
    config: Path
    """The folder of what units read."""
    root: Path
    """The folder that stands for / when the files are written."""

    def real(self, path: Path) -> Path:
        """Where the file is from here. CannotStart if a link leads out of the root: it means another place there."""
        real, root = self.root / path.relative_to("/"), self.root.resolve()
        if not real.resolve().is_relative_to(root):
            raise CannotStart(
                f"{real} leads by a link to {real.resolve()}, out of {root}; make that link a relative one"
            )
        return real

    @property
    def service(self) -> str:
        """What systemctl calls it."""
        return f"atmo-farm@{self.name}" if self.name else "atmo-farm"

    @property
    def control(self) -> str:
        """The command that starts and stops it."""
        return "systemctl --user" if self.user else "systemctl"

    @property
    def unit(self) -> Path:
        """The unit's file; a template, for a service that has a name."""
        return self.units / ("atmo-farm@.service" if self.name else "atmo-farm.service")

    @property
    def folder(self) -> Path:
        """What holds the service's own files."""
        return self.config / self.name if self.name else self.config

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.folder / "atmo-farm.yaml"

    @property
    def environment(self) -> Path:
        """The variables that the Directive's `env(NAME)` are taken from."""
        return self.folder / "environment"

    @property
    def credentials(self) -> Path:
        """The folder of what `credential(NAME)` is taken from, a file each."""
        return self.folder / "credentials"

    @property
    def record(self) -> Path:
        """What `install-service` has written, of all services."""
        return self.config / record.NAME

    @property
    def folders(self) -> tuple[tuple[Path, int], ...]:
        """The folders that are made, from the top, and their modes; the service reads its settings as a stranger."""
        own = ((self.folder, 0o755),) if self.name else ()
        return ((self.config, 0o755), *own, (self.credentials, 0o700))

    def owns(self, path: Path) -> bool:
        """Whether the file belongs to this service alone."""
        return path.parent == self.folder

    def shares_unit(self, path: Path) -> bool:
        """Whether the file belongs to a service with the same unit."""
        return bool(self.name) and path.parent.parent == self.config


def place(name: str, user: bool, root: Path, environ: Mapping[str, str]) -> Place:
    """The place for a service of the system or of this user. ValueError if the name cannot be one."""
    if name and (not NAME.fullmatch(name) or name in RESERVED):
        raise ValueError(
            f"{name!r} cannot name a service; use letters, digits, `-`, `_` and `.`, and not {', '.join(RESERVED)}"
        )
    if not user:
        return Place(name, user, Path("/etc/systemd/system"), Path("/etc/atmo-farm"), root)
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config").absolute()
    return Place(name, user, home / "systemd/user", home / "atmo-farm", root)
