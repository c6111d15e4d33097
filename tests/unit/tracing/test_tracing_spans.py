"""Spans by OpenTelemetry's SDK, as the farm sets it up."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from atmo_farm.tracing import spans

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def goes_on(headers: dict[str, str]) -> dict[str, str]:
    """The headers of what a message with these causes, of a farm that samples nothing by itself."""
    tracer = spans.tracer({}, 0.0, SimpleSpanProcessor(InMemorySpanExporter()))
    return spans.headers(tracer.start_span("s", spans.parent(headers), SpanKind.CONSUMER))


@pytest.mark.parametrize("flags, sampled", [("00", "0"), ("01", "1"), ("02", "2"), ("ff", "3")])
def test_whose_trace_it_is(flags: str, sampled: str) -> None:
    """The sender's, and sampled if that says so: flags that are not known do not go on."""
    found = goes_on({"traceparent": f"00-{TRACE}-{SPAN}-{flags}", "tracestate": "congo=t61rcWkgMzE"})
    assert found["traceparent"].startswith(f"00-{TRACE}-") and SPAN not in found["traceparent"]
    assert found["traceparent"].endswith(f"-0{sampled}")
    assert found["tracestate"] == "congo=t61rcWkgMzE"


@pytest.mark.parametrize(
    "text", ["", "nothing", PARENT.upper(), f"{PARENT}-more", f"00-{'0' * 32}-{SPAN}-01", "x" * 999]
)
def test_what_is_none(text: str) -> None:
    """It begins a trace of its own then."""
    found = goes_on({"traceparent": text, "tracestate": "a=1"})
    assert TRACE not in found["traceparent"] and "tracestate" not in found


@given(st.text(), st.text())
def test_any_text_is_read(parent: str, state: str) -> None:
    """Or not: never an error, and never a line of the log, which a sender could fill so."""
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        goes_on({"traceparent": parent, "tracestate": state})
        goes_on({"traceparent": PARENT, "tracestate": state})
        goes_on({"traceparent": PARENT, "tracestate": "a=1," * 200})
    finally:
        logging.getLogger().removeHandler(handler)
    assert lines == []


def test_errors() -> None:
    """The last one stays, unless it went well at last; texts are short and UTF-8."""
    ended = InMemorySpanExporter()
    tracer = spans.tracer({"service.name": "shop"}, 1.0, SimpleSpanProcessor(ended))
    failed, mended = tracer.start_span("failed"), tracer.start_span("mended")
    for span in (failed, mended):
        spans.fail(span, "for now", "timeout")
    spans.end(failed, ValueError("\ud800" + "x" * 999))
    mended.set_status(StatusCode.OK)
    spans.end(mended, None)
    one, other = ended.get_finished_spans()
    assert (one.status.status_code, one.status.description) == (StatusCode.ERROR, "?" + "x" * 499)
    assert one.attributes is not None and one.attributes["error.type"] == "ValueError"
    assert (other.status.status_code, other.status.description) == (StatusCode.OK, None)
    assert one.resource.attributes["service.name"] == "shop"
    assert not get_current_span().is_recording()


FORKED = """
import gc, os, threading
from atmo_farm import processes
processes.preload(tracing=True)
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from atmo_farm.tracing import spans
made = [one for one in gc.get_objects() if isinstance(one, (TracerProvider, Tracer))]
assert made == [] and threading.active_count() == 1, (made, threading.enumerate())
for _ in range(4):
    if os.fork() == 0:
        tracer = spans.tracer({}, 1.0, SimpleSpanProcessor(InMemorySpanExporter()))
        for _ in range(100):
            print(spans.headers(tracer.start_span("s"))["traceparent"])
        assert threading.active_count() == 1
        os._exit(print(end="", flush=True) or 0)
    os.wait()
"""


def test_forked_children() -> None:
    """Nothing of the SDK is made before the fork, no thread at all, and no id comes twice."""
    lines = subprocess.check_output([sys.executable, "-c", FORKED], text=True).split()
    _, traces, ids, _ = zip(*(line.split("-") for line in lines), strict=True)
    assert len(set(traces)) == len(set(ids)) == 400
