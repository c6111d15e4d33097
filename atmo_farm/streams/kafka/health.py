"""When an outage is one: what is told of a broker's absence, once for each outage and reason."""

from __future__ import annotations

from collections.abc import Callable

from atmo_farm import clock

EVERY_S = 0.5
GRACE_S = 1.0
"""Clients connect again at once when a broker moves: what is over so soon is told to nobody."""


class Health:
    """Asks every half second and tells changes."""

    def __init__(self, waiting: Callable[[str], None], connected: Callable[[], None]):
        self._waiting = waiting
        self._connected = connected
        self._next = 0.0
        self._since: float | None = None
        self._told: set[str] = set()

    def mind(self, trouble: Callable[[], str]) -> None:
        """`trouble` says why nothing goes on, or nothing; it is called only when it is time."""
        now = clock.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        reason = trouble()
        if not reason:
            self._since = None
            if self._told:
                self._told.clear()
                self._connected()
            return
        if self._since is None:
            self._since = now
        if now - self._since >= GRACE_S:
            self.tell(reason)

    def tell(self, reason: str) -> None:
        """Told without grace, unless this outage has had this reason."""
        if reason not in self._told:
            self._told.add(reason)
            self._waiting(reason)
