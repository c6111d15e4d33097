"""Ordered delivery: messages of one lane run one after the other, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from atmo_farm.streams.base import Message

LaneOf = Callable[[Message], Any]
"""Which lane a message belongs to, as anything that can be compared."""


class Lanes:
    """Who may run, and who waits behind whom. What waits is bounded by whoever calls `enter`."""

    def __init__(self, lane_of: LaneOf):
        self._lane_of = lane_of
        self._behind: dict[Any, deque[Message]] = {}
        """A lane is in here while one of its messages runs."""
        self._lane: dict[int, Any] = {}
        """id of a running message → its lane."""

    def enter(self, message: Message) -> bool:
        """Whether it may run now; if not, a `leave` hands it out."""
        lane = self._lane_of(message)
        behind = self._behind.get(lane)
        if behind is not None:
            behind.append(message)
            return False
        self._behind[lane] = deque()
        self._lane[id(message)] = lane
        return True

    def leave(self, message: Message) -> Message | None:
        """It has ended; returns the one that may run now."""
        lane = self._lane.pop(id(message))
        behind = self._behind[lane]
        if not behind:
            del self._behind[lane]
            return None
        following = behind.popleft()
        self._lane[id(following)] = lane
        return following

    def clear(self) -> int:
        """Forget those that wait; returns how many they were."""
        waiting = sum(map(len, self._behind.values()))
        for behind in self._behind.values():
            behind.clear()
        return waiting


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
