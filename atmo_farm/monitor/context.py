"""What the monitor is given by the fork that made it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from atmo_farm.directive.model import Directive
from atmo_farm.ipc.address import Listener
from atmo_farm.ipc.arena import Arena
from atmo_farm.settings import Settings


@attrs.frozen
class MonitorContext:
    """The farm's monitor."""

    arena: Arena
    settings: Settings
    slot: memoryview
    """Its own arena slot."""
    channel: socket.socket
    """The child's end of its socketpair with the master."""
    path: Path
    """Where it listens."""
    state: Path
    """The farm's state folder."""
    generation: int
    """The one in force when it was forked; later ones stand in the farm's card."""
    directive: Callable[[int], Directive]
    """A generation's Directive from the state folder, resolved; blocks while it reads. AtmoFarmError if it cannot."""
    history: Callable[[], list[dict[str, Any]]]
    """What is known of the last generations, the newest first; blocks while it reads. OSError."""
    watched: Path | None = None
    """The application's source, if the farm is to reload when that changes."""
    http: Listener | None = None
    """Where it answers HTTP; None: nowhere."""
