"""W3C Trace Context without any library: how an output goes on in the trace of the message that caused it."""

from __future__ import annotations

from collections.abc import Mapping

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"


def passed_on(came: Mapping[str, str], own: Mapping[str, str]) -> Mapping[str, str]:
    """An output's own headers, and the trace of `came` (names in lower case) where they do not name another."""
    parent = came.get(TRACEPARENT)
    if parent is None or any(name.lower() == TRACEPARENT for name in own):
        return own
    state = came.get(TRACESTATE)
    return {TRACEPARENT: parent, TRACESTATE: state, **own} if state else {TRACEPARENT: parent, **own}
