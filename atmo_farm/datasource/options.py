"""What a pool of connections keeps to."""

from __future__ import annotations

import attrs

from atmo_farm.datasource.call import Call


@attrs.frozen
class PoolOptions:
    """Times in seconds."""

    size: int = 8
    """Connections at most."""
    quota: int = 6
    """Calls of one handler that run at the same time."""
    statement_timeout_s: float | None = None
    idle_timeout_s: float = 300.0
    """After which a connection that is not the last one ends."""
    slow_query_s: float | None = 1.0
    """A statement that took longer gets a log line."""
    comment: str = ""
    """What names the application in front of every statement; empty: statements carry no comment."""

    def comment_of(self, call: Call) -> str:
        """What stands in front of a call's statement."""
        return f"{self.comment} handler={call.handler}" if self.comment else ""

    def deadline_of(self, call: Call, now: float) -> float:
        """When a call's statement must have ended."""
        longest = self.statement_timeout_s
        return call.deadline if longest is None else min(call.deadline, now + longest)

    def is_slow(self, took_s: float) -> bool:
        """Whether a statement that has taken so long gets a log line."""
        return self.slow_query_s is not None and took_s > self.slow_query_s
