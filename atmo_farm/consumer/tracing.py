"""The same worker and functions, with spans: one for each message, in it one for each run of a function, in that one
for each call to a data source; and one for what is published, in whose trace its receiver goes on.

Used only where traces are sent: elsewhere none of this runs.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from atmo_farm import __version__, log
from atmo_farm.consumer.context import ChildContext
from atmo_farm.consumer.sequence import Result, Runs
from atmo_farm.consumer.worker import Worker
from atmo_farm.delivery.outcome import Outcome
from atmo_farm.ipc.arena import Field
from atmo_farm.runtime.function import Unfinished
from atmo_farm.runtime.services import Answer, Services
from atmo_farm.streams.base import DONE, Message
from atmo_farm.tracing.collector import Collector
from atmo_farm.tracing.context import read
from atmo_farm.tracing.exporter import Exporter
from atmo_farm.tracing.spans import Attribute, Kind, Span, Tracer, current

T = TypeVar("T")

LONGEST_ERROR = 500


class TracedWorker(Worker):
    """A worker whose messages have spans."""

    def __init__(self, *arguments: Any, tracer: Tracer):
        super().__init__(*arguments)
        handler = self._handler
        self._tracer = tracer
        self._spans: dict[int, Span] = {}
        """Of the messages in flight, by the identity of the object."""
        self._name = f"process {handler.resource}"
        self._messaging: dict[str, Attribute] = {"messaging.system": handler.source}
        self._attributes: dict[str, Attribute] = {
            **self._messaging,
            "messaging.operation.type": "process",
            "messaging.destination.template": handler.resource,
            "atmo.handler": handler.name,
        }

    def _start(self, message: Message, outcome: Outcome | None = None) -> None:
        attributes = {
            **self._attributes,
            "messaging.destination.name": message.subject,
            "messaging.message.id": message.id,
            "messaging.message.body.size": len(message.data),
        }
        span = self._tracer.begin(self._name, Kind.CONSUMER, read(message.headers), attributes)
        if outcome is not None:
            span.error = _text(outcome.message)
        self._spans[id(message)] = span
        super()._start(message, outcome)

    def _attempt(self, message: Message, attempt: int, began: float) -> Awaitable[None]:
        span = self._spans[id(message)]
        span.attributes["atmo.attempt"] = attempt
        span.error = ""
        current.set(span)
        return super()._attempt(message, attempt, began)

    def _publish(self, message: Message, result: Result) -> Awaitable[None]:
        target = self._target or message.reply
        if not target or result.data is None:
            return DONE
        attributes = {**self._messaging, "messaging.operation.type": "send", "messaging.destination.name": target}
        name = f"send {self._target}" if self._target else "send answer"
        span = self._tracer.begin(name, Kind.PRODUCER, self._spans[id(message)].context, attributes)
        result = Result(result.data, {**span.context.headers(), **result.headers})
        try:
            sent = super()._publish(message, result)
        except Exception as error:
            self._tracer.end(span, _text(str(error)))
            raise
        if sent is DONE:
            self._tracer.end(span)
            return DONE
        return through(self._tracer, span, sent)

    def _failed(self, message: Message, error: Exception, began: float) -> Outcome:
        outcome = super()._failed(message, error, began)
        span = self._spans[id(message)]
        span.attributes["error.type"] = outcome.cause
        span.error = _text(outcome.message)
        return outcome

    def _free_place(self, message: Message) -> None:
        self._tracer.end(self._spans.pop(id(message)), "cut off at the drain deadline" if self._ended else "")
        super()._free_place(message)


class TracedFunction:
    """A function whose runs have spans."""

    def __init__(self, name: str, function: Runs, tracer: Tracer, queries: Mapping[str, Mapping[str, Attribute]]):
        self._name = name
        self._function = function
        self._tracer = tracer
        self._queries = queries

    def begin(self, data: bytes, services: Services, deadline: float) -> bytes | Unfinished | None:
        """As the function's own."""
        message = current.get()
        if not message.context.sampled:
            return self._function.begin(data, services, deadline)
        span = self._tracer.begin(self._name, Kind.INTERNAL, message.context, {"atmo.function": self._name})
        try:
            ran = self._function.begin(data, TracedServices(services, span, self._tracer, self._queries), deadline)
        except Exception as error:
            self._tracer.end(span, _text(str(error)))
            raise
        if isinstance(ran, Unfinished):
            return Unfinished(through(self._tracer, span, ran))
        self._tracer.end(span)
        return ran


class TracedServices:
    """One run's services; its calls to data sources have spans, all others go straight through."""

    def __init__(
        self, services: Services, parent: Span, tracer: Tracer, queries: Mapping[str, Mapping[str, Attribute]]
    ):
        self._services = services
        self._parent = parent
        self._tracer = tracer
        self._queries = queries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._services, name)

    def cache_get(self, key: str) -> Answer:
        """As without a span."""
        return self._call("cache get", {}, lambda: self._services.cache_get(key))

    def cache_set(self, key: str, value: bytes, ttl: int) -> Answer:
        """As without a span."""
        return self._call("cache set", {}, lambda: self._services.cache_set(key, value, ttl))

    def db_exec(self, kind: int, name: str, variables: list[tuple[str, bytes]]) -> Answer:
        """As without a span."""
        known = self._queries.get(name)
        title = f"query {name}" if known is not None else "query"
        return self._call(title, known or {}, lambda: self._services.db_exec(kind, name, variables))

    def _call(self, name: str, attributes: Mapping[str, Attribute], ask: Callable[[], Answer]) -> Answer:
        tracer = self._tracer
        span = tracer.begin(name, Kind.CLIENT, self._parent.context, attributes)
        try:
            answer = ask()
        except Exception as error:
            tracer.end(span, _text(str(error)))
            raise
        if isinstance(answer, asyncio.Future):

            def done(future: asyncio.Future[bytes]) -> None:
                tracer.end(span, "cancelled" if future.cancelled() else _text(str(future.exception() or "")))

            answer.add_done_callback(done)
        else:
            tracer.end(span)
        return answer


class Tracing:
    """What a consumer needs to trace: made on its loop, closed at its end."""

    def __init__(self, collector: Collector, context: ChildContext):
        slot, handler, directive = context.slot, context.handler, context.directive
        settings = context.settings.tracer

        def count(field: Field) -> Callable[[int], None]:
            def add(spans: int) -> None:
                slot[field] += spans

            return add

        resource: dict[str, Attribute] = {
            "service.name": settings.service_name,
            "service.version": directive.app_version,
            "service.instance.id": f"{context.instance}/{handler.name}/{context.worker}",
            "atmo.app": directive.identifier,
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
            "telemetry.sdk.name": "atmo-farm",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": __version__,
        }
        self._exporter = Exporter(collector, resource, count(Field.SPANS), count(Field.SPANS_DROPPED))
        self.tracer = Tracer(settings.probability, self._exporter.offer)
        databases = directive.connections.databases
        self._queries: dict[str, dict[str, Attribute]] = {
            query.name: {
                "db.system.name": databases[query.database].type,
                "db.operation.name": query.type,
                "atmo.query": query.name,
                "atmo.database": query.database,
            }
            for query in directive.queries
            if query.database in databases
        }

    def functions(self, functions: Mapping[str, Runs]) -> dict[str, Runs]:
        """The same ones, with spans."""
        return {key: TracedFunction(key, function, self.tracer, self._queries) for key, function in functions.items()}

    async def close(self, patience_s: float) -> None:
        """Send the last spans, in that time."""
        await self._exporter.close(patience_s)


async def through(tracer: Tracer, span: Span, rest: Awaitable[T]) -> T:
    """What is awaited, and the end of its span."""
    try:
        result = await rest
    except asyncio.CancelledError:
        tracer.end(span, "cancelled")
        raise
    except Exception as error:
        tracer.end(span, _text(str(error)))
        raise
    tracer.end(span)
    return result


def _text(error: str) -> str:
    """What a collector is told of an error: no secret, and not too much."""
    return log.redacted(error, LONGEST_ERROR)
