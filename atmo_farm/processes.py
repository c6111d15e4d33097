"""The entry points of the farm's processes: the one file through which the master reaches what runs in children.

Importing it costs nothing; what children need is imported by `preload`, in the master, once its signal handlers stand.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from atmo_farm import log
from atmo_farm.directive import Application
from atmo_farm.errors import Problem
from atmo_farm.ipc.arena import Field, State

if TYPE_CHECKING:
    from atmo_farm.consumer.context import ChildContext
    from atmo_farm.datasource.context import ProxyContext
    from atmo_farm.directive.model import Directive
    from atmo_farm.monitor.context import MonitorContext
    from atmo_farm.runtime.modules import CompiledModule

PRELOADED = (
    "atmo_farm.consumer.main",
    "atmo_farm.datasource.main",
    "atmo_farm.monitor.main",
    "uvloop",
    "concurrent.futures.thread",
)
"""With all that they import: asyncio, nats, wasmtime. None of them starts a thread."""


TRACING = ("atmo_farm.consumer.tracing",)
"""The same where traces are sent, with aiohttp."""


KAFKA = ("atmo_farm.streams.kafka.stream",)
LIBRDKAFKA = ("atmo_farm.streams.kafka.librdkafka_consumer", "atmo_farm.streams.kafka.librdkafka_transactions")
"""The same for handlers on Kafka: 10 MiB and 0.2 s of CPU time, which no child has to have and to spend. Importing them
connects nowhere: clients that live through a fork hang."""


def preload(tracing: bool = False) -> None:
    """Import what children need, so that they share it instead of each having its own."""
    for name in (*PRELOADED, *(TRACING if tracing else ())):
        importlib.import_module(name)


def preload_for(directive: Directive) -> None:
    """The same for what only some applications need."""
    handlers, connections = directive.handlers, directive.connections.kafka
    if not any("kafka" in (one.source, one.respond_to and one.respond_to.source) for one in handlers):
        return
    is_there = importlib.util.find_spec("confluent_kafka") is not None
    wants_it = any(connection.driver != "kafka-python" for connection in connections.values())
    for name in (*KAFKA, *(LIBRDKAFKA if is_there and wants_it else ())):
        importlib.import_module(name)


def run_consumer(context: ChildContext) -> int:
    """One worker of a stream handler; runs in its own process and returns the exit code (`ipc.exits.ChildExit`)."""
    import uvloop

    from atmo_farm.consumer import main

    _begin(context, f"consumer {context.handler.name}/{context.worker}")
    log.bind(handler=context.handler.name)
    return int(uvloop.run(main.run(context)))


def run_datasource(context: ProxyContext) -> int:
    """The data-source proxy; runs in its own process and returns the exit code."""
    import uvloop

    from atmo_farm.datasource import main

    _begin(context, "data sources")
    return int(uvloop.run(main.run(context)))


def run_monitor(context: MonitorContext) -> int:
    """The farm's monitor; runs in its own process and returns the exit code."""
    import uvloop

    from atmo_farm.monitor import main

    _begin(context, "monitor")
    return int(uvloop.run(main.run(context)))


def _begin(context: ChildContext | ProxyContext | MonitorContext, process: str) -> None:
    """Sign in, in the arena and for the log."""
    slot = context.slot
    slot[Field.PID], slot[Field.GENERATION], slot[Field.STATE] = os.getpid(), context.generation, State.BOOTING
    slot[Field.STARTS] += 1
    log.bind(process=process, generation=context.generation)


def compile_modules(application: Application, folder: Path) -> tuple[Mapping[str, CompiledModule], list[Problem]]:
    """Compile every function's module into the cache folder; runs in a helper process.

    Returns what was compiled, by `namespace::name`, and a problem for each module that this farm cannot run.
    """
    from atmo_farm.runtime.modules import ModuleProblem, compile_module

    compiled: dict[str, CompiledModule] = {}
    problems: list[Problem] = []
    for runnable in application.directive.runnables:
        try:
            compiled[runnable.key] = compile_module(application.module(runnable.key), folder, runnable.interface)
        except ModuleProblem as error:
            problems.append(Problem(runnable.position, runnable.key, str(error)))
    return compiled, problems


def try_data_sources(directive: Directive) -> None:
    """CannotStart when a resolved Directive's data sources need what is not installed, or can never be connected to as
    they are described; nothing is connected. Runs in a helper process."""
    import uvloop

    from atmo_farm.datasource import build
    from atmo_farm.settings import DataSourceSettings

    async def make() -> None:
        build.sources(directive, DataSourceSettings())

    uvloop.run(make())


def prune_modules(folder: Path, keep: Iterable[CompiledModule]) -> None:
    """Remove compiled modules that none of `keep` needs; runs in a helper process."""
    from atmo_farm.runtime.modules import prune

    prune(folder, keep)
