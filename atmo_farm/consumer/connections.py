"""A handler whose outputs go to another connection than its messages come from: it is connected when both are."""

from __future__ import annotations

from atmo_farm.streams.base import StreamEvents


class End:
    """`streams.base.StreamEvents` of one of the two; tells the process. `other` is the other end."""

    other: End

    def __init__(self, process: StreamEvents):
        self._process = process
        self._waits: tuple[str, str] | None = None

    @classmethod
    def pair(cls, process: StreamEvents) -> tuple[End, End]:
        """The source's end and the target's."""
        source, target = cls(process), cls(process)
        source.other, target.other = target, source
        return source, target

    def waiting(self, connection: str, reason: str) -> None:
        """This one is out of reach."""
        self._waits = connection, reason
        self._process.waiting(connection, reason)

    def connected(self) -> None:
        """This one is there (again)."""
        self._waits = None
        if self.other._waits is None:
            self._process.connected()
        else:
            self._process.waiting(*self.other._waits)

    def dropped(self, count: int) -> None:
        """As the stream says."""
        self._process.dropped(count)

    def closed(self, reason: str) -> None:
        """As the stream says."""
        self._process.closed(reason)
