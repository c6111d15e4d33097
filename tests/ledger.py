"""What became of every message of a test, by its id, whatever broker it went through.

    offered      somebody tried to publish it
    published    the broker has said that it has it
    worked       its output was sent: once for each time, so this counts work that was done again
    output       its output is there
    dead         its dead letter is there
    unsettled    how many the broker still has to hand out, or waits for

A message may be offered and not published: its publisher got no answer, and it is there or not.
"""

from __future__ import annotations

from collections import Counter

import attrs

SHOWN = 5


@attrs.define
class Ledger:
    """Filled while a test runs, read when all is over."""

    offered: set[str] = attrs.field(factory=set)
    published: set[str] = attrs.field(factory=set)
    worked: Counter[str] = attrs.field(factory=Counter)
    output: Counter[str] = attrs.field(factory=Counter)
    dead: Counter[str] = attrs.field(factory=Counter)
    unsettled: int = 0

    @property
    def lost(self) -> list[str]:
        """Published, and neither output nor dead letter came of it."""
        return sorted(self.published - self.output.keys() - self.dead.keys())

    @property
    def duplicated(self) -> list[str]:
        """More came of it than one output or one dead letter."""
        ended = self.output + self.dead
        return sorted(name for name, count in ended.items() if count > 1)

    @property
    def unexpected(self) -> list[str]:
        """Nobody published it."""
        return sorted((self.output.keys() | self.dead.keys() | self.worked.keys()) - self.offered)

    @property
    def repeated(self) -> int:
        """How often work was done that had been done before."""
        return sum(count - 1 for count in self.worked.values())

    def verify(self, *, repeated: int = 0, dead: int = 0) -> None:
        """Nothing is lost, duplicated or unexpected, all is settled; work was done again at most so often, and so many
        have dead letters."""
        wrong = {name: getattr(self, name) for name in ("lost", "duplicated", "unexpected")}
        assert self.published, "nothing was published"
        assert not any(wrong.values()), {name: (len(ids), ids[:SHOWN]) for name, ids in wrong.items() if ids}
        assert self.unsettled == 0, f"{self.unsettled} unsettled"
        assert self.repeated <= repeated, f"work done again {self.repeated} times, more than {repeated}"
        assert len(self.dead) == dead, f"{len(self.dead)} dead letters instead of {dead}: {sorted(self.dead)[:SHOWN]}"
