"""How a statement is worded for the server: with its values in it, or as one that a connection has planned before."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import attrs
from psycopg2.extensions import connection

from atmo_farm.datasource.postgresql.values import literal
from atmo_farm.datasource.statement import Slot, Statement, Variable

_numbers = itertools.count(1)
_UNFIT = re.compile(r"\binterval\b", re.IGNORECASE)
"""`CAST(? AS interval minute)` takes the literal '5' for five minutes, and a parameter '5' for five seconds."""


@attrs.frozen
class Template:
    """A text with literals to come."""

    text: str
    """`%s` where one stands, and `%%` for a percent sign."""
    order: tuple[int, ...]
    """Which variable goes to each, from 0."""

    def render(self, variables: Sequence[Variable], driver: connection) -> str:
        """With this connection's literals; CallFailed when a value has none."""
        return self.text % tuple([literal(variables[index], driver) for index in self.order])


@attrs.frozen
class Wording:
    """One statement. Each place of a variable is a parameter of its own: two may differ in type, as literals may."""

    plain: Template
    """The statement; one that only reads has a LIMIT that shows when there are too many rows."""
    plan: str
    """What PREPARE takes in its place, and what it is called then; empty where a plan may mean something else."""
    name: str
    planned: Template
    """EXECUTE of that."""


def wording(statement: Statement, rows: int) -> Wording:
    """Of a statement whose result may have so many rows."""
    order = tuple(part.index for part in statement.parts if isinstance(part, Slot))
    plain, places = statement_text(statement, "%s", "%%"), itertools.count(1)
    marked = statement.render(lambda _: f"(${next(places)})")
    name = f"atmo_{next(_numbers)}_{re.sub('[^a-z0-9]', '_', statement.name.lower())[:40]}"
    call = f"({','.join(['%s'] * len(order))})" if order else ""
    return Wording(
        plain=Template(_limited(plain, statement, rows), order),
        plan=_limited(marked, statement, rows) if statement.only_reads and not _UNFIT.search(marked) else "",
        name=name,
        planned=Template(f"EXECUTE {name}{call}", order),
    )


def statement_text(statement: Statement, place: str, percent: str) -> str:
    """Its text with this at each placeholder and for each percent sign."""
    return "".join([place if isinstance(part, Slot) else part.replace("%", percent) for part in statement.parts])


def _limited(query: str, statement: Statement, rows: int) -> str:
    """With no more rows than show that there are too many. A LIMIT behind the query leaves its order alone for certain;
    around one with a LIMIT of its own, PostgreSQL has no reason to change that."""
    if not statement.only_reads:
        return query
    limit = f"LIMIT {rows + 1}"
    return f"SELECT * FROM ({query}) AS atmo {limit}" if statement.has_limit else f"{query} {limit}"
