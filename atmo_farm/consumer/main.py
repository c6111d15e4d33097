"""The consumer process: one worker of one stream handler, from the fork to its exit code.

`run` reads in the order of a process's life: boot, serve, drain. A message's way starts at `Worker.handle`.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from atmo_farm import clock, log
from atmo_farm.capabilities.datasources import DataSources
from atmo_farm.capabilities.rules import Rules
from atmo_farm.capabilities.services import Capabilities
from atmo_farm.consumer.attempts import Attempts
from atmo_farm.consumer.broker import has_target, stream_of, target_of
from atmo_farm.consumer.connections import End
from atmo_farm.consumer.context import ChildContext
from atmo_farm.consumer.data import needed_sources, wait_for_sources
from atmo_farm.consumer.gauges import Gauges, waited
from atmo_farm.consumer.guest_log import HandlerGuestLog
from atmo_farm.consumer.pausing import Pausing
from atmo_farm.consumer.sequence import Runs, Sequence
from atmo_farm.consumer.worker import Worker
from atmo_farm.delivery.dead_letters import DeadLetters
from atmo_farm.delivery.spool import Spool
from atmo_farm.ipc.arena import Field, State
from atmo_farm.ipc.channel import ChildChannel
from atmo_farm.ipc.client import ProxyClient
from atmo_farm.ipc.exits import ChildExit
from atmo_farm.ipc.heartbeat import Heartbeat
from atmo_farm.ipc.messages import Command, LogLevel, Pause, ReopenLog, Suspect
from atmo_farm.runtime import config
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.function import Function
from atmo_farm.streams.base import Stream, StreamEvents, Target

if TYPE_CHECKING:
    from atmo_farm.consumer.tracing import Tracing

logger = logging.getLogger("atmo_farm.consumer")

_libc = ctypes.CDLL(None)

DRAIN_MARGIN_S = 1.0
"""The child ends this long before the master would kill it."""

LAST_SPANS_WITHIN_S = 0.5
"""How long an end waits for the collector."""


async def run(context: ChildContext) -> ChildExit:
    """Serve until told to stop; returns what the process must exit with."""
    return await Consumer(context).run()


class Consumer:
    """The process's parts and its life; the stream tells it its events (`streams.base.StreamEvents`)."""

    def __init__(self, context: ChildContext):
        self._context = context
        self._handler = context.handler
        self._slot = context.slot
        self._channel = ChildChannel(context.channel)
        self._heartbeat = Heartbeat(context.slot)
        self._end: asyncio.Future[ChildExit] = asyncio.get_running_loop().create_future()
        self._functions: dict[str, Function] = {}
        self._serving: tuple[Stream, Worker] | None = None
        """From the moment on at which messages may come."""
        self._target: Target | None = None
        self._tracing: Tracing | None = None
        self._suspects = dict(context.suspects)
        self._pausing = Pausing(context.slot, context.handler.name, context.paused, self.closed)
        self._booted = False
        self._drops = 0
        """Messages lost since the last line that said so."""

    async def run(self) -> ChildExit:
        """Boot, serve, drain."""
        self._slot[Field.STATE] = State.BOOTING
        self._heartbeat.start()
        self._channel.attach(self._command, lambda: self._finish(ChildExit.LOST_MASTER))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._finish, ChildExit.DRAINED)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked since before the fork: none is lost
        boot = asyncio.ensure_future(self._boot())
        either: set[asyncio.Future[Any]] = {boot, self._end}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._end.done():
            boot.cancel()
            await asyncio.wait({boot})
            return await self._leave(self._end.result())
        try:
            boot.result()
        except Exception as error:
            logger.debug("boot failed", exc_info=error)
            self._channel.failed(f"{type(error).__name__}: {error}")
            return ChildExit.BOOT_FAILED
        return await self._leave(await self._end)

    async def _boot(self) -> None:
        """Warm instances first, then the broker: nothing is received before it can be handled."""
        handler, context = self._handler, self._context
        keys = {call.function for step in handler.steps for call in step.calls}
        tables = 1 + max(context.modules[key].tables for key in keys)
        engine = Engine(instances=max(1, handler.pool_max) * len(keys), tables=min(tables, config.TABLES))
        for key in keys:
            function = Function(
                engine,
                context.modules[key],
                memory_limit=handler.memory_limit,
                isolation=handler.isolation,
                pool_warm=handler.pool_warm,
                pool_max=handler.pool_max,
            )
            self._functions[key] = function
            await function.warm()
        rules = Rules.from_directive(context.directive.capabilities)
        data = await self._reach_data(rules) if context.proxy is not None else None
        guest_log = HandlerGuestLog(handler.name)
        capabilities = Capabilities(rules, guest_log, data)
        functions: Mapping[str, Runs] = self._functions
        if context.collector is not None:
            from atmo_farm.consumer.tracing import TracedAttempts, TracedWorker, Tracing

            self._tracing = Tracing(context.collector, context)
            functions = self._tracing.functions(functions)
        sequence = Sequence(handler.steps, handler.response, functions, capabilities)
        identity = f"{context.directive.identifier}.{handler.name}"
        engine.waited = partial(waited, self._slot)
        events: StreamEvents = self
        if has_target(handler):
            events, others = End.pair(self)
            self._target = target_of(context, others)
        stream = stream_of(context, identity, events)
        if stream.durable:
            engine.entered = self._slot[Field.ENTERED : Field.ENTERED + 1]
        parts = handler, sequence, stream, self._slot, identity, self._target
        attempts = Attempts(*parts) if self._tracing is None else TracedAttempts(*parts, tracer=self._tracing.tracer)
        more = handler, attempts, stream, self._slot, self._dead_letters(stream), self._suspects
        worker = Worker(*more) if self._tracing is None else TracedWorker(*more, tracer=self._tracing.tracer)
        gauges = Gauges(self._slot, handler, stream, self._functions.values(), guest_log)
        if self._target is not None:
            await self._target.open()
        await stream.open()
        self._serving = stream, worker
        await self._pausing.consume(stream, worker.handle)
        self._booted = True
        if hasattr(_libc, "malloc_trim"):  # glibc's: what the boot has freed goes back to the machine
            _libc.malloc_trim(0)
        events.connected()
        gauges.start(self._tell)

    def _dead_letters(self, stream: Stream) -> DeadLetters | None:
        handler, context = self._handler, self._context
        if handler.dead_letter is None:
            return None
        return DeadLetters(
            handler.name,
            context.directive.identifier,
            context.generation,
            handler.dead_letter.resource,
            stream.bury,
            Spool(context.state, handler.name, context.settings.spool_size),
            spool_all=not stream.durable,
        )

    async def _reach_data(self, rules: Rules) -> DataSources:
        """Connect to the proxy, and wait until every source is there that the handler's functions can ask."""
        context, directive = self._context, self._context.directive
        assert context.proxy is not None
        client = ProxyClient(context.proxy, [self._handler.name])
        client.start()
        needed = needed_sources(directive, self._functions.keys(), context.modules)
        await wait_for_sources(client, needed, self.waiting)
        return DataSources(client, rules, directive.queries, bool(directive.connections.databases))

    async def _leave(self, end: ChildExit) -> ChildExit:
        """A process that was told to stop drains, also one whose boot had come as far as its first messages."""
        if end is ChildExit.DRAINED and self._serving is not None:
            end = await self._drain(*self._serving)
        self._tell()
        return end

    async def _drain(self, stream: Stream, worker: Worker) -> ChildExit:
        """No new messages; those in flight finish, until the deadline."""
        self._slot[Field.STATE] = State.DRAINING
        deadline = clock.monotonic() + self._context.settings.drain_deadline_s - DRAIN_MARGIN_S
        drained = asyncio.ensure_future(self._finish_in_flight(stream, worker))
        await asyncio.wait({drained}, timeout=deadline - clock.monotonic())
        cut = 0
        if not drained.done():
            drained.cancel()
            not_started = stream.abandon()
            self._slot[Field.DROPPED] += not_started
            cut = await worker.cancel() + not_started
            text = "drain deadline: messages cut off"
            log.event(logger, logging.ERROR, text, handler=self._handler.name, messages=cut, not_started=not_started)
        if self._target is not None:
            await self._target.close()
        await stream.close()
        if self._tracing is not None:
            await self._tracing.close(LAST_SPANS_WITHIN_S)
        self._heartbeat.stop()
        return ChildExit.DRAIN_DEADLINE if cut else ChildExit.DRAINED

    async def _finish_in_flight(self, stream: Stream, worker: Worker) -> None:
        await self._pausing.stop()
        worker.leave()
        await stream.stop()
        if self._target is not None:
            await self._target.stop()
        await worker.idle()

    def _tell(self) -> None:
        """What is told once a second, and at the end."""
        if self._serving is not None:
            self._serving[1].write_sum()
        if self._drops:
            text = "messages dropped: the handler is slower than they come"
            log.event(logger, logging.WARNING, text, handler=self._handler.name, messages=self._drops)
            self._drops = 0

    def waiting(self, connection: str, reason: str) -> None:
        """The broker is out of reach."""
        self._slot[Field.STATE] = State.WAITING
        log.event(logger, logging.WARNING, f"waiting for {connection}", handler=self._handler.name, reason=reason)
        self._channel.waiting(connection, reason)

    def connected(self) -> None:
        """The broker is there; said to the master only once the boot is done."""
        if self._booted:
            self._slot[Field.STATE] = State.READY
            self._channel.ready()

    def dropped(self, count: int) -> None:
        """The stream lost messages; said with the next gauges, so once a second at most."""
        self._slot[Field.DROPPED] += count
        self._slot[Field.DROPPED_NS] = clock.monotonic_ns()
        self._drops += count

    def closed(self, reason: str) -> None:
        """The connection is gone for good."""
        log.event(logger, logging.ERROR, "connection closed", handler=self._handler.name, reason=reason)
        self._finish(ChildExit.BROKER_CLOSED)

    def _finish(self, how: ChildExit) -> None:
        if not self._end.done():
            self._end.set_result(how)

    def _command(self, command: Command) -> None:
        if isinstance(command, LogLevel):
            log.set_level(command.level)
        elif isinstance(command, Suspect):
            self._suspects[command.number] = command.deaths
        elif isinstance(command, Pause):
            self._pausing.want(command.paused)
        elif isinstance(command, ReopenLog):
            log.reopen()
