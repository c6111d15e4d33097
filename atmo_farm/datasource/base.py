"""The seams of the proxy: what a source is to the server, and what a database's connection is to the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from atmo_farm.datasource.call import Call
from atmo_farm.datasource.statement import Statement, Variable
from atmo_farm.ipc.gauges import SourceFigures


class Source(Protocol):
    """A cache or a database. Everything runs on the proxy's loop and nothing blocks it.

    A call ends by `call.answer` or `call.fail`, during `execute` or later, in any order with others. The client gives
    up at the call's deadline in any case (`cancel`).
    """

    name: str
    """As log lines and errors name it: `database default`, `redis`, `cache`."""

    async def open(self) -> None:
        """Begin and return at once: connecting goes on behind it, and calls fail as transient until it has."""

    def execute(self, call: Call) -> None:
        """Run it, or queue it."""

    def cancel(self, call: Call) -> None:
        """The call was given up: free its place in the queue, or stop it on its server."""

    def forget(self, client: object) -> None:
        """This client is gone, and its calls were cancelled: roll its transactions back."""

    def problem(self) -> str:
        """Why it is out of reach; empty while it can be used. The text holds no secret."""

    def figures(self) -> SourceFigures:
        """How it is now."""

    async def ping(self) -> None:
        """Return when the source has just answered; raises Unreachable with the reason."""

    async def close(self) -> None:
        """End what runs, and all connections; returns in any state of things, within seconds."""


@attrs.frozen
class Limits:
    """What one result may be."""

    rows: int = 10_000
    bytes: int = 16 << 20
    """Of the result as JSON."""


class Connection(Protocol):
    """One connection of a database backend. One thing at a time; made on the running loop, opened by `open`.

    Failures are CallFailed and its kinds. After one, `broken` says whether the connection may be used again; the pool
    closes a broken one. A connection in a transaction runs no statement of others.
    """

    broken: bool

    async def open(self) -> None:
        """Connect; Unreachable says why not, without secrets. Takes no longer than the connect timeout."""

    def is_lost(self) -> bool:
        """Whether the server has ended it while it was idle. Asked before each use of an idle connection: one system
        call at most."""

    async def run(self, statement: Statement, variables: Sequence[Variable], comment: str, deadline: float) -> bytes:
        """Run it and give its result as JSON: an array of row objects, or {"lastInsertID", "rowsAffected"}.

        `comment` stands in front of the SQL as a comment. At `deadline` (clock.monotonic() seconds) the server is told
        to stop: TransientFailure for what only reads, else OutcomeUnknown unless it says that nothing was done.
        CallFailed when the result is larger than the limits.
        """

    async def begin(self) -> None:
        """Begin a transaction."""

    async def commit(self, deadline: float) -> None:
        """Commit it; OutcomeUnknown when the server does not answer."""

    async def rollback(self) -> None:
        """Roll it back; the connection is broken afterwards if that is not certain."""

    def cancel(self) -> None:
        """Stop what runs now, on its server: `run` then raises within a second, or the connection is broken."""

    async def ping(self) -> None:
        """Return when the server has answered; Unreachable."""

    def close(self) -> None:
        """Disconnect at once."""


class Backend(Protocol):
    """How one database is reached."""

    def connection(self) -> Connection:
        """A new one, not yet open."""

    async def check(self, statement: Statement) -> str:
        """What its server says against a query, without running it; empty when nothing. Unreachable."""

    async def close(self) -> None:
        """End what connections share (threads); after the last of them is closed."""
