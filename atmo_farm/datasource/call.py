"""One request under way in the proxy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atmo_farm.datasource.errors import CallFailed
from atmo_farm.ipc.frames import Op, Status

End = Callable[["Call", Status, bytes], None]

EARLY_S = 0.05
"""A call that has ended so shortly before its deadline was ended by that: timers are not exact."""

_OK = Status.OK


class Call:
    """It ends exactly once: answered, failed, or given up by its client; what comes after that is ignored.

    `client` stands for the connection that it came on, `handler` is the name of who asks; `deadline` is in
    clock.monotonic() seconds; `arguments` are those of the op.
    """

    __slots__ = ("_on_end", "arguments", "client", "deadline", "ended", "handler", "number", "op", "run")

    def __init__(
        self,
        client: object,
        number: int,
        op: Op,
        handler: str,
        deadline: float,
        arguments: tuple[Any, ...],
        on_end: End,
    ):
        self.client = client
        self.number = number
        self.op = op
        self.handler = handler
        self.deadline = deadline
        self.arguments = arguments
        self.ended = False
        self.run: Any = None
        """Where it runs, for the source that runs it: what `cancel` needs."""
        self._on_end = on_end

    def answer(self, payload: bytes) -> None:
        """It has succeeded."""
        if not self.ended:
            self.ended = True
            self._on_end(self, _OK, payload)

    def fail(self, error: CallFailed) -> None:
        """It has failed."""
        if not self.ended:
            self.ended = True
            self._on_end(self, error.status, str(error).encode("utf-8", "replace"))

    def give_up(self) -> None:
        """Its client does not want it any more: no answer goes out."""
        self.ended = True
