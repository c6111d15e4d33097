"""W3C Trace Context in headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo_farm.tracing.context import TraceContext, passed_on, read

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_what_a_message_says() -> None:
    """The specification's own example."""
    found = read({"traceparent": PARENT, "tracestate": "congo=t61rcWkgMzE"})
    assert found == TraceContext(int(TRACE, 16), int(SPAN, 16), True, "congo=t61rcWkgMzE")
    assert found.headers() == {"traceparent": PARENT, "tracestate": "congo=t61rcWkgMzE"}


@pytest.mark.parametrize("flags, sampled", [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_flags(flags: str, sampled: bool) -> None:
    """Only the lowest is known, and only that goes on."""
    found = read({"traceparent": f"00-{TRACE}-{SPAN}-{flags}"})
    assert found is not None and found.sampled is sampled
    assert found.headers()["traceparent"].endswith(f"-0{int(sampled)}")


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    """It may have more at its end."""
    assert read({"traceparent": f"cc-{TRACE}-{SPAN}-01-what-comes-then"}) is not None
    assert read({"traceparent": f"cc-{TRACE}-{SPAN}-01"}) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing",
        PARENT.upper(),
        f"{PARENT}-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f" {PARENT}",
        f"{PARENT}\n",
    ],
)
def test_what_is_none(text: str) -> None:
    """It begins a trace of its own then."""
    assert read({"traceparent": text}) is None


def test_a_long_state_is_left_out() -> None:
    """And the trace goes on without it."""
    found = read({"traceparent": PARENT, "tracestate": "a=" + "x" * 511})
    assert found is not None and found.state == ""


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """Or not: never an error."""
    read({"traceparent": text, "tracestate": text})


def test_passed_on() -> None:
    """What names another trace itself keeps it."""
    own, came = {"A": "1"}, {"traceparent": PARENT, "tracestate": "s=1", "b": "2"}
    assert passed_on(came, own) == {"A": "1", "traceparent": PARENT, "tracestate": "s=1"}
    assert passed_on({"traceparent": PARENT}, own) == {"A": "1", "traceparent": PARENT}
    assert passed_on({"tracestate": "s=1"}, own) is own
    another = {"Traceparent": "another"}
    assert passed_on(came, another) is another
