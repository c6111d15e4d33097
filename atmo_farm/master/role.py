"""What a worker is for: to consume for one handler, or to be the farm's data-source proxy."""

from __future__ import annotations

import attrs

from atmo_farm.directive.model import Handler

DATA_SOURCES = "data-sources"


@attrs.frozen
class Role:
    """One kind of child of one generation; equal names of two generations are the same role."""

    name: str
    """The handler's, or DATA_SOURCES."""
    workers: int
    handler: Handler | None
    """None: the proxy."""
    uses_proxy: bool = False
    """Its functions call the cache or a database."""

    @property
    def is_proxy(self) -> bool:
        """Whether it is the data-source proxy."""
        return self.handler is None

    @property
    def key(self) -> tuple[bool, str]:
        """What tells roles apart: a handler may be called like the proxy."""
        return self.is_proxy, self.name
