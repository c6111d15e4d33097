"""How far a partition is processed without a gap: what may be committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Container


class Watermark:
    """Of one partition: offsets begin in rising order and end in any.

    `position` is the lowest offset that has begun and not ended, or the one after the last where all have ended: what
    a consumer that takes over has to go on from. None before the first.
    """

    __slots__ = ("_begun", "_ended", "_next")

    def __init__(self) -> None:
        self._begun: deque[int] = deque()
        """From the position on; holes in the numbering are no gaps (compaction, ends of transactions)."""
        self._ended: set[int] = set()
        """Those of them that have ended, above the position."""
        self._next: int | None = None

    def __len__(self) -> int:
        """How many have begun from the position on, ended or not."""
        return len(self._begun)

    @property
    def position(self) -> int | None:
        """See the class."""
        return self._begun[0] if self._begun else self._next

    @property
    def next(self) -> int | None:
        """One above the highest offset that has begun."""
        return self._next

    @property
    def unfinished(self) -> int:
        """How many have begun and not ended."""
        return len(self._begun) - len(self._ended)

    def reach(self, ready: Container[int]) -> int | None:
        """What the position were if these had ended, too."""
        ended = self._ended
        return next((offset for offset in self._begun if offset not in ended and offset not in ready), self._next)

    def begin(self, offset: int) -> None:
        """ValueError if it is not above all that have begun."""
        if self._next is not None and offset < self._next:
            raise ValueError(f"offset {offset} after {self._next - 1}")
        self._begun.append(offset)
        self._next = offset + 1

    def end(self, offset: int) -> bool:
        """Whether the position has moved. An offset ends once, after it has begun."""
        begun, ended = self._begun, self._ended
        if offset != begun[0]:
            ended.add(offset)
            return False
        begun.popleft()
        while ended and begun[0] in ended:
            ended.remove(begun.popleft())
        return True
