"""A token bucket for lines that foreign code makes."""

from __future__ import annotations

from atmo_farm import clock


class RateLimit:
    """At most `burst` lines at once and `lines_per_s` in the long run; what is over is counted."""

    def __init__(self, lines_per_s: float = 100, burst: int = 1000):
        self._lines_per_s = lines_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = clock.monotonic()
        self._dropped = 0
        self.dropped = 0
        """All that were ever refused."""

    def allow(self, lines: int = 1) -> bool:
        """Whether so many more lines may be written now, all or none; a refusal is counted."""
        now = clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._lines_per_s)
        self._filled_at = now
        if self._tokens < lines:
            self._dropped += lines
            self.dropped += lines
            return False
        self._tokens -= lines
        return True

    def take_dropped(self) -> int:
        """How many were refused since the last call: said in the next line that is written."""
        count, self._dropped = self._dropped, 0
        return count
