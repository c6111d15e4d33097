"""W3C Trace Context: the headers by which a message says which trace it belongs to.

traceparent: 00-<trace id, 32 hex>-<span id, 16 hex>-<flags, 2 hex>        tracestate: vendors' own, passed on
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

SAMPLED = 0x01

LONGEST_STATE = 512
"""Characters of a `tracestate` that is taken over; a longer one is left out as a whole."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@attrs.frozen
class TraceContext:
    """One span of one trace."""

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""

    def headers(self) -> dict[str, str]:
        """By which what it causes goes on in its trace."""
        found = {TRACEPARENT: f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"}
        if self.state:
            found[TRACESTATE] = self.state
        return found


def read(headers: Mapping[str, str]) -> TraceContext | None:
    """Where a message says that it comes from; None where it does not, or says it wrongly. Names in lower case."""
    match = _TRACEPARENT.fullmatch(headers.get(TRACEPARENT, ""))
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    state = headers.get(TRACESTATE, "")
    state = state if len(state) <= LONGEST_STATE else ""
    return TraceContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & SAMPLED), state)


def passed_on(came: Mapping[str, str], own: Mapping[str, str]) -> Mapping[str, str]:
    """An output's own headers, and the trace of the message that caused it where they do not name another."""
    parent = came.get(TRACEPARENT)
    if parent is None or any(name.lower() == TRACEPARENT for name in own):
        return own
    state = came.get(TRACESTATE)
    return {TRACEPARENT: parent, TRACESTATE: state, **own} if state else {TRACEPARENT: parent, **own}
