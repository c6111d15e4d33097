"""What the server remembers of one connection, so that a select need not say it each time."""

from __future__ import annotations

import psycopg2

from atmo_farm.datasource.postgresql.link import Link
from atmo_farm.datasource.postgresql.values import Shape
from atmo_farm.datasource.postgresql.wording import Wording

_DEFAULT = "default_transaction_read_only"
"""A server tells its clients what it is, from version 14 on."""

GUARD = "SET LOCAL transaction_read_only=on;"
STAY = f"SET {_DEFAULT}=on;"
WRITABLE = f"SET {_DEFAULT}=off"

READS_BEFORE = 8
"""So many selects in a row, and the connection is made one that only reads."""

USES_BEFORE = 5
"""So often a connection has run a select before it has the server plan that for good."""

MOST_PLANS = 256

_LONGEST_MS = 0x7FFFFFFF
_MISFIT = ("0A", "26", "42")
"""Classes of errors that come before anything is done: a feature, a prepared statement's name, and syntax, names and
types. A plan has them after tables have changed."""


class Session:
    """Of an open link. Behind a pooler (`is_shared`) nothing may be left in a session that others go on with."""

    def __init__(self, link: Link, is_shared: bool):
        self._link = link
        self._info = link.driver.info
        self._keeps = not is_shared and self._info.parameter_status(_DEFAULT) == "off"
        self._timeout_ms = self._next_timeout_ms = 0
        """The server's own timer for selects, now and when the message under way has succeeded; 0: not set."""
        self._reads = 0
        """Selects in a row."""
        self._uses: dict[str, int] = {}
        """Of the plans that are not made yet, by their names."""
        self.plans: dict[str, Shape | None] = {}
        """By their names, with what their results are, once known: the server refuses to change that."""

    def is_read_only(self) -> bool:
        """Whether nothing can be written before WRITABLE."""
        return self._keeps and self._info.parameter_status(_DEFAULT) == "on"

    def before_read(self, left_ms: int, most_ms: int) -> tuple[str, bool]:
        """What must stand before a select that is to write nothing and may take `left_ms`, and whether the server ends
        it just then; else the timer is coarse, so that it need not be set each time, and `most_ms` (or 0) at most."""
        self._next_timeout_ms = self._timeout_ms
        is_kept = self.is_read_only()
        if not is_kept and not (self._keeps and self._reads >= READS_BEFORE):
            return f"{GUARD}SET LOCAL statement_timeout={left_ms};", True
        before = "" if is_kept else GUARD + STAY
        if not left_ms <= self._timeout_ms <= 4 * left_ms:
            coarse_ms = 1 << (left_ms - 1).bit_length()
            self._next_timeout_ms = min(coarse_ms, most_ms or _LONGEST_MS, _LONGEST_MS)
            before = f"{before}SET statement_timeout={self._next_timeout_ms};"
        return before, False

    def has_read(self, wording: Wording, shape: Shape | None) -> None:
        """A select has succeeded: what stood before it holds from now on."""
        self._timeout_ms = self._next_timeout_ms
        self._reads += 1
        if wording.name in self.plans:
            self.plans[wording.name] = shape
        else:
            self._uses[wording.name] = self._uses.get(wording.name, 0) + 1

    def may_have_written(self) -> None:
        """Another statement has run: it may have changed settings, too."""
        self._reads = self._timeout_ms = self._next_timeout_ms = 0

    def wants_plan(self, wording: Wording) -> bool:
        """Whether a select is run so often that a plan is worth its while."""
        return (
            self._uses.get(wording.name, 0) >= USES_BEFORE
            and self._keeps
            and bool(wording.plan)
            and len(self.plans) < MOST_PLANS
        )

    def is_planned(self, wording: Wording) -> None:
        """It has a plan."""
        self.plans[wording.name] = None
        self._uses.pop(wording.name, None)

    def forget_plan(self, wording: Wording) -> None:
        """It has none, or not any more."""
        self.plans.pop(wording.name, None)
        self._uses.pop(wording.name, None)


def is_misfit(error: psycopg2.Error) -> bool:
    """Whether a plan may be what is wrong, not the query and its values: nothing was done."""
    return (error.pgcode or "")[:2] in _MISFIT
