"""Calls that wait for a connection: each handler in turn gets one, and none more than its quota at once."""

from __future__ import annotations

from collections import OrderedDict, deque

from atmo_farm.datasource.call import Call

_MANY_DEAD = 100
"""Calls that were given up in the queue are dropped when they are so many, and most of it."""


def pins(call: Call) -> bool:
    """Whether a QUERY begins a transaction, and so takes a connection for itself until that ends."""
    return bool(call.arguments[2])


class FairQueue:
    """`quota`: how many calls of one handler may run at the same time; `most_pinned`: how many transactions of all.

    A transaction runs from its first call, which is taken here, to its end (`done`)."""

    def __init__(self, quota: int, most_pinned: int):
        self.quota = quota
        self.shared_quota = quota
        """What `quota` is set to when two handlers ask in turn."""
        self.changes = 0
        """How often another handler has asked than the one before it."""
        self._latest = ""
        self._most_pinned = most_pinned
        self._waiting: OrderedDict[str, tuple[deque[Call], deque[Call]]] = OrderedDict()
        """By handler, in the order of their turns: first calls of transactions, and others."""
        self._running: dict[str, int] = {}
        self._pinned = self._dead = 0

    def __len__(self) -> int:
        """Calls in it, with those that were given up and not dropped yet."""
        return sum(len(begins) + len(others) for begins, others in self._waiting.values())

    def admit(self, call: Call) -> bool:
        """Whether it may run at once, without waiting; it counts as running then."""
        self._note(call.handler)
        if self._waiting or not self._may_run(call.handler) or (pins(call) and self._pinned >= self._most_pinned):
            return False
        self._start(call)
        return True

    def put(self, call: Call) -> None:
        """Queue it behind the others of its handler."""
        self._note(call.handler)
        self._queue_of(call).append(call)

    def put_back(self, call: Call) -> None:
        """Queue it before them: it was taken, is `done`, and did not run."""
        self._queue_of(call).appendleft(call)

    def take(self) -> Call | None:
        """The next call that may run now; it counts as running until `done`. None if there is none."""
        for handler in tuple(self._waiting):
            if not self._may_run(handler):
                continue
            begins, others = self._waiting[handler]
            call = self._first(begins) if self._pinned < self._most_pinned else None
            call = call or self._first(others)
            if not (begins or others):
                del self._waiting[handler]
            elif call is not None:
                self._waiting.move_to_end(handler)
            if call is not None:
                self._start(call)
                return call
        return None

    def done(self, call: Call) -> None:
        """A call that was taken or admitted has ended, or a transaction that began with it."""
        left = self._running[call.handler] - 1
        if left:
            self._running[call.handler] = left
        else:
            del self._running[call.handler]
        self._pinned -= pins(call)

    def given_up(self) -> None:
        """A call that waits was given up: it is passed over, and dropped with others at some time."""
        self._dead += 1
        if self._dead >= _MANY_DEAD and self._dead * 2 > len(self):
            calls = self.drain()
            for call in calls:
                self.put(call)

    def drain(self) -> list[Call]:
        """All that wait, which are no longer in the queue."""
        queues = [queue for pair in self._waiting.values() for queue in pair]
        calls = [call for queue in queues for call in queue if not call.ended]
        self._waiting.clear()
        self._dead = 0
        return calls

    def _note(self, handler: str) -> None:
        if handler != self._latest:
            if self._latest:
                self.changes += 1
                self.quota = self.shared_quota
            self._latest = handler

    def _may_run(self, handler: str) -> bool:
        return self._running.get(handler, 0) < self.quota

    def _start(self, call: Call) -> None:
        self._running[call.handler] = self._running.get(call.handler, 0) + 1
        self._pinned += pins(call)

    def _queue_of(self, call: Call) -> deque[Call]:
        pair = self._waiting.get(call.handler)
        if pair is None:
            pair = self._waiting[call.handler] = deque(), deque()
        return pair[0] if pins(call) else pair[1]

    @staticmethod
    def _first(calls: deque[Call]) -> Call | None:
        while calls:
            call = calls.popleft()
            if not call.ended:
                return call
        return None
