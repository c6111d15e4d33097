"""What a consumer process is given by the fork that made it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

import attrs

from atmo_farm.directive.model import Directive, Handler
from atmo_farm.runtime.modules import CompiledModule
from atmo_farm.settings import Settings
from atmo_farm.tracing.collector import Collector


@attrs.frozen
class ChildContext:
    """One worker of one handler, of one generation."""

    handler: Handler
    directive: Directive
    """With every reference resolved."""
    modules: Mapping[str, CompiledModule]
    """`namespace::name` → its module, compiled; at least those that the handler calls."""
    settings: Settings
    slot: memoryview
    """This worker's arena slot, format `Q`, indexed by `ipc.arena.Field`."""
    channel: socket.socket
    """The child's end of its socketpair with the master."""
    worker: int
    """0, 1, … below the handler's `workers`."""
    generation: int
    master_pid: int
    state: Path
    """The farm's state folder."""
    instance: str = ""
    """The farm's own id, by which brokers tell its workers from those of other farms (`master.instance`)."""
    proxy: Path | None = None
    """The socket of the data-source proxy; None where the handler's functions ask for no data."""
    collector: Collector | None = None
    """Who gets the traces; None: nobody."""
    suspects: Mapping[int, int] = attrs.field(factory=dict)
    """What the crash ledger has: `Message.number` → how many processes died while its guest ran."""
    paused: bool = False
    """Whether the handler is paused."""
