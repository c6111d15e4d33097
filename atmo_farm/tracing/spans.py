"""OpenTelemetry's spans as the farm uses them: who makes them, how they end, and in which headers they go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import Span, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from atmo_farm import __version__, log

T = TypeVar("T")

LONGEST_TEXT = 500
"""Characters of what others wrote, in a span."""

_W3C = TraceContextTextMapPropagator()


def tracer(resource: Mapping[str, str | int], probability: float, processor: SpanProcessor) -> Tracer:
    """Made after the fork: the SDK's provider keeps locks and hooks of its process.

    A trace that another system has begun is sampled if that says so; of those that begin here, `probability`.
    """
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # it warns of each message whose headers are odd
    own = Resource(
        {
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": sdk_version,
            **resource,
        }
    )
    who = OTELResourceDetector().detect().merge(own)  # OTEL_RESOURCE_ATTRIBUTES; Resource.create would start a thread
    provider = TracerProvider(ParentBased(TraceIdRatioBased(probability)), who, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider.get_tracer("atmo-farm", __version__)


def parent(headers: Mapping[str, str]) -> Context:
    """The trace that a message says it belongs to; an empty one where it does not, or says it wrongly."""
    return _W3C.extract(headers)


def headers(span: Span) -> dict[str, str]:
    """By which what follows goes on in the span's trace."""
    found: dict[str, str] = {}
    _W3C.inject(found, set_span_in_context(span))
    return found


async def through(span: Span, rest: Awaitable[T]) -> T:
    """What is awaited, and the end of its span."""
    try:
        result = await rest
    except BaseException as error:
        end(span, error)
        raise
    span.end()
    return result


def end(span: Span, error: BaseException | None) -> None:
    """It ends now; with `error`, badly."""
    if error is not None:
        fail(span, "cancelled" if isinstance(error, asyncio.CancelledError) else str(error), type(error).__name__)
    span.end()


def fail(span: Span, reason: str, cause: str) -> None:
    """What it stands for went wrong; it may still go well, or go on."""
    if span.is_recording():
        span.set_attribute("error.type", cause)
        span.set_status(StatusCode.ERROR, text(reason) or cause)


def text(foreign: str) -> str:
    """What others wrote, as a collector is told it: no secret, not too much, and UTF-8."""
    return log.redacted(foreign, LONGEST_TEXT).encode(errors="replace").decode()
