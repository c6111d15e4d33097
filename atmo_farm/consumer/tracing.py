"""The same worker and functions, with OpenTelemetry's spans: one for each message, in it one for each run of a
function, in that one for each call to a data source; and one for what is published, in whose trace its receiver
goes on.

Used only where traces are sent: elsewhere none of this is imported. A message's span is the current one in whatever
runs for that message.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from opentelemetry.context import attach, detach
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, get_current_span, set_span_in_context

from atmo_farm.consumer.attempts import Attempts
from atmo_farm.consumer.context import ChildContext
from atmo_farm.consumer.sequence import Runs
from atmo_farm.consumer.worker import Worker
from atmo_farm.delivery.outcome import Outcome
from atmo_farm.directive.model import Handler
from atmo_farm.ipc.arena import Field
from atmo_farm.runtime.function import Unfinished
from atmo_farm.runtime.services import Answer, Services
from atmo_farm.streams.base import DONE, Message, Receipt
from atmo_farm.tracing import spans
from atmo_farm.tracing.collector import Collector
from atmo_farm.tracing.context import passed_on
from atmo_farm.tracing.exporter import Exporter


class TracedWorker(Worker):
    """A worker whose messages have spans."""

    def __init__(self, handler: Handler, *arguments: Any, tracer: Tracer):
        super().__init__(handler, *arguments)
        self._tracer = tracer
        self._name = f"process {handler.resource}"
        self._attributes = {
            "messaging.system": handler.source,
            "messaging.operation.type": "process",
            "messaging.destination.template": handler.resource,
            "atmo.handler": handler.name,
        }

    def _start(self, message: Message, outcome: Outcome | None = None) -> None:
        parent = spans.parent(message.headers)
        span = self._tracer.start_span(self._name, parent, SpanKind.CONSUMER)
        if span.is_recording():
            span.set_attributes(
                {
                    **self._attributes,
                    "messaging.destination.name": spans.text(message.subject),
                    "messaging.message.id": spans.text(message.id),
                    "messaging.message.body.size": len(message.data),
                }
            )
        if outcome is not None:
            spans.fail(span, outcome.message, outcome.cause)
        token = attach(set_span_in_context(span, parent))
        try:
            super()._start(message, outcome)
        finally:
            detach(token)

    def _succeeded(self, message: Message) -> None:
        super()._succeeded(message)
        get_current_span().set_status(StatusCode.OK)

    def _failed(self, message: Message, error: Exception, began: float) -> Outcome:
        outcome = super()._failed(message, error, began)
        spans.fail(get_current_span(), outcome.message, outcome.cause)
        return outcome

    def _free_place(self, message: Message) -> None:
        span = get_current_span()
        if self._ended:
            spans.fail(span, "cut off at the drain deadline", "cancelled")
        span.end()
        super()._free_place(message)


class TracedAttempts(Attempts):
    """Attempts whose outputs have spans."""

    def __init__(self, handler: Handler, *arguments: Any, tracer: Tracer):
        super().__init__(handler, *arguments)
        self._tracer = tracer
        self._title = f"send {self._target or 'answer'}"
        self._messaging = {"messaging.system": handler.source}

    def begin(self, message: Message, attempt: int, began: float) -> Awaitable[Receipt | None]:
        """As without spans."""
        get_current_span().set_attribute("atmo.attempt", attempt)
        return super().begin(message, attempt, began)

    def _publish_on(self, target: str, message: Message, data: bytes, headers: Mapping[str, str]) -> Awaitable[None]:
        span = get_current_span()
        if not span.is_recording():
            return self._in_trace(span, target, message, data, headers)
        attributes = {
            **self._messaging,
            "messaging.operation.type": "send",
            "messaging.destination.name": spans.text(target),
        }
        span = self._tracer.start_span(self._title, kind=SpanKind.PRODUCER, attributes=attributes)
        try:
            sent = self._in_trace(span, target, message, data, headers)
        except Exception as error:
            spans.end(span, error)
            raise
        if sent is DONE:
            span.end()
            return DONE
        return spans.through(span, sent)

    def _in_trace(
        self, span: Span, target: str, message: Message, data: bytes, headers: Mapping[str, str]
    ) -> Awaitable[None]:
        """A receipt is waited for by the message's own task: what would be called later knows no span."""
        sent = super()._publish_on(target, message, data, passed_on(spans.headers(span), headers))
        return self.confirm(sent) if type(sent) is Receipt else sent


class TracedFunction:
    """A function whose runs have spans. `queries`: what is known of each, by its name."""

    def __init__(self, name: str, function: Runs, tracer: Tracer, queries: Mapping[str, Mapping[str, str]]):
        self._name = name
        self._function = function
        self._tracer = tracer
        self._queries = queries

    def begin(self, data: bytes, services: Services, deadline: float) -> bytes | Unfinished | None:
        """As the function's own."""
        if not get_current_span().is_recording():
            return self._function.begin(data, services, deadline)
        span = self._tracer.start_span(self._name, attributes={"atmo.function": self._name})
        try:
            ran = self._function.begin(data, TracedServices(services, span, self._tracer, self._queries), deadline)
        except Exception as error:
            spans.end(span, error)
            raise
        if isinstance(ran, Unfinished):
            return Unfinished(spans.through(span, ran))
        span.end()
        return ran


class TracedServices:
    """One run's services; its calls to data sources have spans, all others go straight through."""

    def __init__(self, services: Services, run: Span, tracer: Tracer, queries: Mapping[str, Mapping[str, str]]):
        self._services = services
        self._run = run
        self._tracer = tracer
        self._queries = queries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._services, name)

    def cache_get(self, key: str) -> Answer:
        """As without a span."""
        return self._call("cache get", None, lambda: self._services.cache_get(key))

    def cache_set(self, key: str, value: bytes, ttl: int) -> Answer:
        """As without a span."""
        return self._call("cache set", None, lambda: self._services.cache_set(key, value, ttl))

    def db_exec(self, kind: int, name: str, variables: list[tuple[str, bytes]]) -> Answer:
        """As without a span."""
        known = self._queries.get(name)
        title = f"query {name}" if known is not None else "query"
        return self._call(title, known, lambda: self._services.db_exec(kind, name, variables))

    def _call(self, name: str, attributes: Mapping[str, str] | None, ask: Callable[[], Answer]) -> Answer:
        run = set_span_in_context(self._run)  # not the current one: guests go on wherever their answer arrives
        span = self._tracer.start_span(name, run, SpanKind.CLIENT, attributes)
        try:
            answer = ask()
        except Exception as error:
            spans.end(span, error)
            raise
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(
                lambda future: spans.end(span, asyncio.CancelledError() if future.cancelled() else future.exception())
            )
        else:
            span.end()
        return answer


class Tracing:
    """What a consumer needs to trace: made on its loop, after the fork; closed at its end."""

    def __init__(self, collector: Collector, context: ChildContext):
        slot = context.slot

        def count(field: Field) -> Callable[[int], None]:
            def add(spans: int) -> None:
                slot[field] += spans

            return add

        self._exporter = Exporter(collector, count(Field.SPANS), count(Field.SPANS_DROPPED))
        directive, settings = context.directive, context.settings.tracer
        resource: dict[str, str | int] = {
            "service.name": settings.service_name,
            "service.version": directive.app_version,
            "service.instance.id": f"{context.instance}/{context.handler.name}/{context.worker}",
            "atmo.app": directive.identifier,
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
        }
        self.tracer = spans.tracer(resource, settings.probability, self._exporter)
        databases = directive.connections.databases
        self._queries = {
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
