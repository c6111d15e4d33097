"""What a worker is for: to consume for one handler, to be the farm's data-source proxy, or its monitor."""

from __future__ import annotations

import attrs

from atmo_farm.directive.model import Handler
from atmo_farm.ipc.cards import Kind


@attrs.frozen
class Role:
    """One kind of child of one generation; equal keys of two generations are the same role."""

    kind: Kind
    name: str
    """The handler's, or what its kind is called."""
    workers: int = 1
    handler: Handler | None = None
    """A consumer's."""
    uses_proxy: bool = False
    """Its functions call the cache or a database."""

    @property
    def is_proxy(self) -> bool:
        """Whether it is the data-source proxy."""
        return self.kind is Kind.DATA_SOURCES

    @property
    def is_monitor(self) -> bool:
        """Whether it is the monitor."""
        return self.kind is Kind.MONITOR

    @property
    def key(self) -> tuple[Kind, str]:
        """What tells roles apart: a handler may be called like the proxy."""
        return self.kind, self.name


PROXY = Role(Kind.DATA_SOURCES, Kind.DATA_SOURCES.value)
MONITOR = Role(Kind.MONITOR, Kind.MONITOR.value)
