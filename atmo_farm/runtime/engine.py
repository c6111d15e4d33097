"""What all guests of a process share: wasmtime's engine, the epoch ticker, the scheduler, the loaded modules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from atmo_farm.errors import AtmoFarmError
from atmo_farm.runtime import capi, config, modules
from atmo_farm.runtime.scheduler import Scheduler
from atmo_farm.runtime.ticker import Ticker

if TYPE_CHECKING:
    from atmo_farm.runtime.function import Function


class Engine:
    """Made in the child after the fork, on its running loop; every guest of the process runs on that loop.

    `memory_reservation` is the largest memory limit of the process's functions, in bytes; a Function with a larger one
    is refused. What is really reserved is `config.FULL_RESERVATION` for every memory, which a limit cannot exceed.
    `instances`: the sum of what the functions' pools may hold, of `tables` tables each (the sink has one, too): there
    is room for no more. 0: any number, each made at three times the price.
    An engine that is never closed is not freed: the end of the process is enough, and nothing then runs in a bad order.
    """

    def __init__(self, memory_reservation: int = config.FULL_RESERVATION, instances: int = 0, tables: int = 2):
        self.memory_reservation = min(memory_reservation, config.FULL_RESERVATION)
        self.loop = asyncio.get_running_loop()
        self.address = config.new_engine(instances, tables)
        self.scheduler = Scheduler(self.loop)
        self.ticker = Ticker(self.address)
        self.ticker.start()
        self.entered: memoryview | None = None
        """Where to note, as one 8-byte number, whose guest runs at this moment (`Services.number`); None: nowhere."""
        self.waited: Callable[[str, float], None] = lambda _name, _seconds: None
        """Told the name of each host function for which a guest has waited, and for how long."""
        self.functions: set[Function] = set()
        self._modules: dict[Path, int] = {}

    def module(self, path: Path) -> int:
        """The loaded module of a compiled file; cache.BadFile if the file is not as this farm wrote it."""
        if self.scheduler.closed:
            raise AtmoFarmError("the engine is closed")
        if path not in self._modules:
            self._modules[path] = modules.load(self.address, path)
        return self._modules[path]

    def close(self) -> None:
        """Close all functions and free the engine. Runs that have not ended by then never will: cancel them before."""
        if self.scheduler.closed:
            return
        self.scheduler.closed = True
        for function in tuple(self.functions):
            function.close()
        self.ticker.stop()
        for module in self._modules.values():
            capi.module_delete(module)
        self._modules.clear()
        capi.engine_delete(self.address)
