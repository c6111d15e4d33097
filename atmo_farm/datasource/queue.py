"""Calls that wait for a connection: each handler in turn gets one, and none more than its quota at once."""

from __future__ import annotations

from collections import OrderedDict, deque

from atmo_farm.datasource.call import Call


class FairQueue:
    """`quota`: how many calls of one handler may run at the same time."""

    def __init__(self, quota: int):
        self.quota = quota
        self._waiting: OrderedDict[str, deque[Call]] = OrderedDict()
        """By handler, in the order of their turns."""
        self._running: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, call: Call) -> None:
        """Queue it behind the others of its handler."""
        self._waiting.setdefault(call.handler, deque()).append(call)

    def take(self) -> Call | None:
        """The next call that may run now; it counts as running until `done`. None if there is none."""
        for handler in list(self._waiting):
            calls = self._waiting[handler]
            while calls and calls[0].ended:  # given up while it waited
                calls.popleft()
            if not calls:
                del self._waiting[handler]
            elif self._running.get(handler, 0) < self.quota:
                call = calls.popleft()
                if calls:
                    self._waiting.move_to_end(handler)
                else:
                    del self._waiting[handler]
                self._running[handler] = self._running.get(handler, 0) + 1
                return call
        return None

    def done(self, handler: str) -> None:
        """A call of this handler that was taken has ended."""
        left = self._running[handler] - 1
        if left:
            self._running[handler] = left
        else:
            del self._running[handler]

    def drain(self) -> list[Call]:
        """All that wait, which are no longer in the queue."""
        calls = [call for waiting in self._waiting.values() for call in waiting if not call.ended]
        self._waiting.clear()
        return calls
