"""Spans: what happened when, in which trace, because of what."""

from __future__ import annotations

import contextvars
import enum
import random
from collections.abc import Callable, Mapping

import attrs

from atmo_farm import clock
from atmo_farm.tracing.context import TraceContext

Attribute = str | int | bool


class Kind(enum.IntEnum):
    """OpenTelemetry's numbers."""

    INTERNAL = 1
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


@attrs.define(eq=False)
class Span:
    """One stretch of work; times are wall-clock nanoseconds, its length is of the monotonic clock."""

    name: str
    kind: Kind
    context: TraceContext
    parent_id: int
    """The span that it belongs to; 0: it begins a trace."""
    began_ns: int
    began_monotonic_ns: int
    attributes: dict[str, Attribute]
    ended_ns: int = 0
    error: str = ""
    """What went wrong, for people; empty: nothing."""


current: contextvars.ContextVar[Span] = contextvars.ContextVar("span")
"""The message's span, in whatever runs for it."""


class Tracer:
    """Begins spans, and hands over those that have ended to `export`, as far as their trace is sampled.

    A trace that another system has begun is sampled if that says so; of those that begin here, `probability`.
    """

    def __init__(self, probability: float, export: Callable[[Span], None]):
        self._below = int(probability * (1 << 64))
        self._export = export

    def begin(self, name: str, kind: Kind, parent: TraceContext | None, attributes: Mapping[str, Attribute]) -> Span:
        """A span that begins now."""
        span_id = random.getrandbits(64) or 1
        if parent is None:
            trace_id = random.getrandbits(128) or 1
            context = TraceContext(trace_id, span_id, trace_id & ((1 << 64) - 1) < self._below)
        else:
            context = TraceContext(parent.trace_id, span_id, parent.sampled, parent.state)
        parent_id = parent.span_id if parent is not None else 0
        return Span(name, kind, context, parent_id, clock.wall_ns(), clock.monotonic_ns(), dict(attributes))

    def end(self, span: Span, error: str = "") -> None:
        """It ends now; with `error`, badly."""
        span.error = error or span.error
        if span.context.sampled:
            span.ended_ns = span.began_ns + clock.monotonic_ns() - span.began_monotonic_ns
            self._export(span)
