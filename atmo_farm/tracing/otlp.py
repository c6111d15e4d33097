"""OTLP/HTTP with JSON: the form in which collectors take spans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from atmo_farm import __version__
from atmo_farm.tracing.spans import Attribute, Span

ERROR = 2
"""OpenTelemetry's number of a status."""


def encode(spans: Iterable[Span], resource: Mapping[str, Attribute]) -> bytes:
    """A request that says who (`resource`) did what (`spans`). Ids are in hex, other numbers of 64 bits are texts."""
    scope = {"scope": {"name": "atmo-farm", "version": __version__}, "spans": [_span(span) for span in spans]}
    return msgspec.json.encode(
        {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [scope]}]}
    )


def _span(span: Span) -> dict[str, Any]:
    context = span.context
    found: dict[str, Any] = {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "name": span.name,
        "kind": int(span.kind),
        "startTimeUnixNano": str(span.began_ns),
        "endTimeUnixNano": str(span.ended_ns),
        "attributes": _attributes(span.attributes),
    }
    if span.parent_id:
        found["parentSpanId"] = f"{span.parent_id:016x}"
    if context.state:
        found["traceState"] = context.state
    if span.error:
        found["status"] = {"code": ERROR, "message": span.error}
    return found


def _attributes(attributes: Mapping[str, Attribute]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Attribute) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"stringValue": value.encode("utf-8", "replace").decode()}
