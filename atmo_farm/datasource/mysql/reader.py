"""Reads the answer to a statement by the driver and makes it JSON, on the loop when it is here, else on a thread."""

from __future__ import annotations

from collections.abc import Sequence

from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.mysql.driver import Handle, Result
from atmo_farm.datasource.rows import PIECE, RowWriter, changed, small, unique_names

Names = dict[bytes, tuple[str, ...]]
"""The names of columns, by the beginning of the answers that tell them."""

_MOST_NAMES = 4096
_NO_ROWS = b"[]"
_LONGEST = 1 << 32


class Reader:
    """Of one handle. Answers are capped by `limits`; `names` is shared by the readers of a backend."""

    def __init__(self, handle: Handle, limits: Limits, names: Names):
        self._handle = handle
        self._limits = limits
        self._names = names
        self._rows: Result | None = None
        self._wants_rows = False

    def read(self, head: bytes | None, wants_rows: bool) -> bytes:
        """The answer, rows or what was changed. Of one that is here as a whole, `head` is what comes before the rows.

        CallFailed when it is over the limits or no text: unless it `is_at_end` then, the handle must be closed, before
        anything else is done with this reader. An error of the driver's.
        """
        self._wants_rows = wants_rows
        self._rows = None
        handle = self._handle
        handle.read_query_result()
        rows = self._rows = handle.use_result() if head is None else handle.store_result()
        try:
            if rows is None:
                answer = _NO_ROWS if wants_rows else changed(handle.insert_id(), handle.affected_rows())
            elif head is None:
                answer = self._large(rows)
            else:
                answer = self._small(rows, head)
        except UnicodeDecodeError:
            raise CallFailed("a text in the result is not Unicode") from None
        self._rows = None
        while handle.next_result() == 0:
            handle.discard_result()
        return answer

    def is_at_end(self) -> bool:
        """Whether an answer that was given up has no more rows, or one at most; False when the driver fails."""
        rows = self._rows
        try:
            return rows is None or (not rows.fetch_row(1) and self._handle.next_result() != 0)
        except Exception:
            return False

    def _small(self, rows: Result, head: bytes) -> bytes:
        found = rows.fetch_row(0)
        if not self._wants_rows:
            return changed(_returned_id(found), len(found))
        names = self._names.get(head)
        if names is None:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            names = self._names[head] = unique_names(column[0] for column in rows.describe())
        return small(names, found, self._limits)

    def _large(self, rows: Result) -> bytes:
        columns = rows.describe()
        # So many rows that, were they as long as they can be, a quarter of the cap would hold them.
        piece = self._limits.bytes // 4 // max(1, sum(column[3] % _LONGEST for column in columns))
        piece = max(1, min(PIECE, piece))
        writer = RowWriter([column[0] for column in columns], self._limits)
        first, count = 0, 0
        while found := rows.fetch_row(piece):
            if self._wants_rows:
                writer.add(found)
            else:
                first, count = first or _returned_id(found), count + len(found)
        return writer.finish() if self._wants_rows else changed(first, count)


def _returned_id(rows: Sequence[Sequence[object]]) -> int:
    """Of INSERT … RETURNING id, where the server tells no last id: the first value, if it is a whole number."""
    value = rows[0][0] if rows else None
    return value if isinstance(value, int) else 0
