"""The job behind `atmo-farm invoke`: one function, run once, alone."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from atmo_farm import clock
from atmo_farm.capabilities.request import Request
from atmo_farm.capabilities.rules import Rules
from atmo_farm.capabilities.services import Capabilities
from atmo_farm.consumer.data import needed_sources
from atmo_farm.directive import Application, fqfn, references
from atmo_farm.directive.connections import Connections
from atmo_farm.directive.model import Directive, Runnable
from atmo_farm.directive.report import did_you_mean
from atmo_farm.errors import NotFound, Problem, UserFilesError
from atmo_farm.settings import Settings
from atmo_farm.tools.data import data_sources

if TYPE_CHECKING:
    from atmo_farm.runtime.modules import CompiledModule

LEVELS = {1: "error", 2: "warn", 3: "info", 4: "debug"}
"""Of the ABI's log_msg; any other number is info."""


@attrs.frozen
class Invocation:
    """What the function is given."""

    input: bytes = b""
    method: str = "GET"
    url: str = "/"
    headers: Mapping[str, str] = attrs.field(factory=dict)
    params: Mapping[str, str] = attrs.field(factory=dict)
    state: Mapping[str, bytes] = attrs.field(factory=dict)


@attrs.frozen
class LogLine:
    """A line that the function logged or printed."""

    level: str
    text: str


@attrs.frozen
class Invoked:
    """What came of a run that ended well."""

    output: bytes
    """Empty, too, when the function returned nothing."""
    headers: Mapping[str, str]
    """Of the outgoing message: what the function set."""
    state: Mapping[str, bytes]
    """As a next step would see it: with what the function set, and its output under its name."""
    duration_s: float
    """Of the run alone: neither compiling nor instantiating is in it."""


@attrs.frozen
class _Lines:
    """Hands a function's lines on (`capabilities.services.GuestLog`)."""

    take: Callable[[LogLine], None]

    def line(self, level: int, text: str, function: str, request_id: str) -> None:  # noqa: ARG002
        """One line."""
        self.take(LogLine(LEVELS.get(level, "info"), text))


def invoke(
    application: Application,
    name: str,
    invocation: Invocation,
    settings: Settings,
    on_log: Callable[[LogLine], None],
    connect: bool = True,
) -> Invoked:
    """Run the function of that name (`fn`, `namespace::fn` or a whole FQFN) once, as a handler that calls it would.

    Timeout and memory limit are the largest of the handlers that call it, else the defaults.
    NotFound if there is no such function, UserFilesError if its module cannot run here; RunnableError, GuestTrapped,
    GuestTimedOut and GuestOutOfMemory as the run ends. A function that asks for data gets the Directive's data sources
    (CannotStart when one is out of reach), unless `connect` is false: then it is told `capability is not enabled`.
    """
    import uvloop

    runnable = _find(application.directive, name)
    return uvloop.run(_run(application, runnable, invocation, settings, on_log, connect))


async def _run(
    application: Application,
    runnable: Runnable,
    invocation: Invocation,
    settings: Settings,
    on_log: Callable[[LogLine], None],
    connect: bool,
) -> Invoked:
    from atmo_farm.runtime.engine import Engine
    from atmo_farm.runtime.function import Function
    from atmo_farm.runtime.modules import ModuleProblem, compile_module

    handlers = [
        handler
        for handler in application.directive.handlers
        if any(call.function == runnable.key for step in handler.steps for call in step.calls)
    ]
    memory_limit = max((handler.memory_limit for handler in handlers), default=settings.defaults.memory_limit)
    timeout_s = max((handler.timeout_s for handler in handlers), default=settings.defaults.timeout_s)
    request = Request(
        method=invocation.method,
        url=invocation.url,
        id=str(uuid.uuid4()),
        body=invocation.input,
        headers={name.lower(): value for name, value in invocation.headers.items()},
        params=invocation.params,
        state=invocation.state,
    )
    with tempfile.TemporaryDirectory(prefix="atmo-farm-invoke-") as folder:
        try:
            compiled = compile_module(application.module(runnable.key), Path(folder), runnable.interface)
        except ModuleProblem as error:
            raise UserFilesError([Problem(runnable.position, runnable.key, str(error))]) from error
        rules = _rules(application.directive, compiled)
        engine = Engine(memory_reservation=memory_limit)
        function = Function(engine, compiled, memory_limit=memory_limit, isolation="fresh", pool_warm=1, pool_max=1)
        async with AsyncExitStack() as stack:
            data = None
            if connect and compiled.asks_for_data:
                directive = references.resolve(application.directive, os.environ, None)
                needed = needed_sources(directive, [runnable.key], {runnable.key: compiled})
                data = await stack.enter_async_context(data_sources(directive, rules, settings.data_sources, needed))
            await function.warm()
            started = clock.monotonic()
            capabilities = Capabilities(rules, _Lines(on_log), data)
            services = capabilities.for_call(runnable.name, request, started + timeout_s)
            try:
                output = await function.call(request.body, services, started + timeout_s) or b""
            finally:
                duration_s = clock.monotonic() - started
                function.close()
    for change in services.changes or ():
        request.set(*change)
    return Invoked(output, services.headers or {}, {**request.state, runnable.name: output}, duration_s)


def _rules(directive: Directive, compiled: CompiledModule) -> Rules:
    """With the values of secrets only where the function can ask for them: for others they need not be set."""
    if compiled.asks_for_secrets:
        directive = attrs.evolve(directive, connections=Connections(), authentication={})
        directive = references.resolve(directive, os.environ, None)
    return Rules.from_directive(directive.capabilities)


def _find(directive: Directive, name: str) -> Runnable:
    wanted = fqfn.parse(name)
    for runnable in directive.runnables:
        if runnable.key == wanted.key and wanted.is_of(directive.identifier, directive.app_version):
            return runnable
    names = [
        runnable.name if runnable.namespace == fqfn.DEFAULT_NAMESPACE else runnable.key
        for runnable in directive.runnables
    ]
    meant = did_you_mean(name, names) or f"; there is {', '.join(names)}"
    raise NotFound(f"{directive.identifier} has no function {name!r}{meant}")
