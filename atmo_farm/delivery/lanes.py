"""Ordered delivery: messages of one lane run one after the other, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from atmo_farm.streams.base import Message

LaneOf = Callable[[Message], Any]
"""Which lane a message belongs to, as anything that can be compared."""


class _Lane:
    __slots__ = ("behind", "failed", "key", "passed", "runs")

    def __init__(self, key: Any):
        self.key = key
        self.runs = False
        """One of its messages does."""
        self.behind: deque[Message] = deque()
        self.passed: dict[int, Callable[[], None] | None] = {}
        """ids of messages that let the next one run before they had ended, in order; with what tells those that have
        failed since that they may run again."""
        self.failed = 0
        """Of those."""


class Lanes:
    """Who may run, and who waits behind whom. What waits is bounded by whoever calls `enter`.

    A message lets the next one pass when nothing but its output's acknowledgement is missing, and outputs keep their
    order. Should the output fail, it runs again before all that have not begun, and no other beside it.
    """

    def __init__(self, lane_of: LaneOf):
        self._lane_of = lane_of
        self._lanes: dict[Any, _Lane] = {}
        """Those with a message that has not ended."""
        self._of: dict[int, _Lane] = {}
        """id of a message that has begun → its lane."""

    def enter(self, message: Message) -> bool:
        """Whether it may run now; if not, a `leave` or `let_pass` hands it out."""
        key = self._lane_of(message)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        elif lane.runs or lane.failed:
            lane.behind.append(message)
            return False
        lane.runs = True
        self._of[id(message)] = lane
        return True

    def let_pass(self, message: Message) -> Message | None:
        """It runs no more, and has not ended; returns the one that may run now."""
        lane = self._of[id(message)]
        lane.passed[id(message)] = None
        lane.runs = False
        return self._next(lane)

    def come_back(self, message: Message, go: Callable[[], None]) -> None:
        """It has let others pass, and is to run again: `go` is called when it may, perhaps at once."""
        lane = self._of[id(message)]
        lane.passed[id(message)] = go
        lane.failed += 1
        self._next(lane)

    def leave(self, message: Message) -> Message | None:
        """It has ended; returns the one that may run now."""
        lane = self._of.pop(id(message))
        if id(message) not in lane.passed:
            lane.runs = False
        elif lane.passed.pop(id(message)) is not None:
            lane.failed -= 1
        return self._next(lane)

    def clear(self) -> int:
        """Forget those that wait; returns how many they were."""
        waiting = sum(len(lane.behind) for lane in self._lanes.values())
        for lane in self._lanes.values():
            lane.behind.clear()
        return waiting

    def _next(self, lane: _Lane) -> Message | None:
        if lane.runs:
            return None
        if lane.failed:
            first, go = next(iter(lane.passed.items()))
            if go is not None:
                del lane.passed[first]
                lane.failed -= 1
                lane.runs = True
                go()
            return None
        if lane.behind:
            following = lane.behind.popleft()
            lane.runs = True
            self._of[id(following)] = lane
            return following
        if not lane.passed:
            del self._lanes[lane.key]
        return None


def lane_of(ordering: Literal["partition", "key"], ordering_key: str) -> LaneOf:
    """For a handler; `ordering_key` as the Directive writes it: `subject`, `header:NAME`, `field:NAME`, or empty for
    the record's own key. What has no such header or field is in one lane with its like."""
    if ordering == "partition":
        return lambda message: message.partition
    kind, _, name = ordering_key.partition(":")
    if kind == "subject":
        return lambda message: message.subject
    if kind == "header":
        return lambda message: message.headers.get(name.lower(), "")
    if kind == "field":
        return lambda message: _field(message.data, name)
    return lambda message: (message.partition, message.record_key)


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _field(body: bytes, name: str) -> Any:
    """The field's value, of an array or object its JSON text; empty where the body is no object or has none."""
    try:
        raw = _fields.decode(body).get(name)
        if raw is None:
            return ""
        text = bytes(raw)
        return text if text[:1] in b"[{" else msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return ""
