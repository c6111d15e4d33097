"""What the data source process is given by the fork that made it."""

from __future__ import annotations

import socket
from pathlib import Path

import attrs

from atmo_farm.directive.model import Directive
from atmo_farm.settings import Settings


@attrs.frozen
class ProxyContext:
    """The proxy of one generation."""

    directive: Directive
    """With every reference resolved."""
    settings: Settings
    slot: memoryview
    """Its arena slot, format `Q`, indexed by `ipc.arena.Field`."""
    channel: socket.socket
    """The child's end of its socketpair with the master."""
    path: Path
    """Where it listens."""
    generation: int
