"""One connection of the pool: how statements and transactions run on it, and what their ends mean."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure, Unreachable
from atmo_farm.datasource.mysql.failures import INTERRUPTED, TOO_LONG, DriverFailed, failure
from atmo_farm.datasource.mysql.runner import Runner
from atmo_farm.datasource.mysql.session import Session, look
from atmo_farm.datasource.mysql.values import Template, before
from atmo_farm.datasource.rows import too_many_bytes
from atmo_farm.datasource.statement import Statement, Variable

if TYPE_CHECKING:
    from atmo_farm.datasource.mysql.backend import MySqlBackend

OWN_S = 1.0
"""For ROLLBACK, and a look at the session: how long the server may take."""

PING_S = 2.0

_WRITING_FUNCTIONS = (
    b"SELECT count(*) AS n FROM information_schema.ROUTINES WHERE ROUTINE_TYPE = 'FUNCTION' AND ROUTINE_NAME IN (%b) "
    b"AND SQL_DATA_ACCESS NOT IN ('NO SQL', 'READS SQL DATA')"
)
_NONE = b'[{"n":0}]'


class MySqlConnection:
    """`base.Connection`."""

    def __init__(self, backend: MySqlBackend):
        self._backend = backend
        self._runner: Runner | None = None
        self._in_transaction = self._is_undone = False
        """It is in a transaction; the server has undone that."""
        self._is_suspect = False
        """A procedure has run since the session was looked at."""
        self.broken = False

    async def open(self) -> None:
        """Connect; Unreachable."""
        self._runner = Runner(await self._backend.connect(), self._backend.cancel)

    def is_lost(self) -> bool:
        """Whether the server has ended it."""
        return self._runner is None or self._runner.session.link.is_lost()

    async def run(self, statement: Statement, variables: Sequence[Variable], comment: str, deadline: float) -> bytes:
        """Run one statement; see the package's docstring."""
        template = self._backend.template(statement)
        runner = self._ready()
        session = runner.session
        if self._in_transaction or template.is_control or template.has_backslash:
            self._admit(template, session)
        text = before(comment) + template.render(session.link.literal, variables)
        if len(text) >= session.max_packet:
            raise CallFailed(
                f"mysql: the query with its variables is {len(text)} bytes long, and its server takes less than "
                f"{session.max_packet} (max_allowed_packet)"
            )
        now = clock.monotonic()
        deadline = min(deadline, now + self._backend.read_timeout_s)
        if now >= deadline:
            raise _too_late()
        if template.first_word == "call":
            return await self._call(text, deadline, statement.type == "select")
        only_reads = (template.only_reads and not template.calls) or await self._only_reads(template, deadline)
        return await self._run(runner, text, deadline, statement.type == "select", only_reads)

    async def begin(self) -> None:
        """START TRANSACTION; Unreachable."""
        await self._command(b"START TRANSACTION", self._backend.connect_timeout_s)
        self._in_transaction, self._is_undone = True, False

    async def commit(self, deadline: float) -> None:
        """COMMIT."""
        runner = self._ready()
        if self._is_undone:
            raise _undone()
        if clock.monotonic() >= deadline:
            raise _too_late()
        try:
            await self._run(runner, b"COMMIT", deadline, wants_rows=False, only_reads=False, may_stop=False)
        except (TransientFailure, OutcomeUnknown):
            raise
        except CallFailed as error:
            raise OutcomeUnknown(str(error)) from None
        self._in_transaction = False
        await self._inspect()

    async def rollback(self) -> None:
        """ROLLBACK."""
        try:
            await self._command(b"ROLLBACK", OWN_S)
        except Unreachable:
            self._give_up()
        self._in_transaction = self._is_undone = False
        await self._inspect()

    async def ping(self) -> None:
        """Ask for nothing."""
        await self._command(b"DO 0", PING_S)

    def cancel(self) -> None:
        """Stop what runs now."""
        if self._runner is not None:
            self._runner.cancel()

    def close(self) -> None:
        """Disconnect at once."""
        self.broken = True
        if self._runner is not None:
            self._runner.close()

    # What runs

    def _ready(self) -> Runner:
        if self._runner is None:
            raise Unreachable("not connected")
        return self._runner

    def _admit(self, template: Template, session: Session) -> None:
        """CallFailed for a statement that must not run here and now."""
        if template.is_control:
            word = template.first_word.upper()
            raise CallFailed(f"{word} is not for queries: connections are shared, and steps have `transaction: true`")
        if self._in_transaction:
            if self._is_undone:
                raise _undone()
            if template.commits:
                word = template.first_word.upper() or "such a query"
                raise CallFailed(f"MySQL ends a transaction before {word}: it cannot run in one")
        if template.has_backslash and not session.sql_mode.isdisjoint(("NO_BACKSLASH_ESCAPES", "ANSI_QUOTES")):
            raise CallFailed("what a backslash in the query means is not certain in the server's sql_mode; avoid it")

    async def _run(
        self, runner: Runner, text: bytes, deadline: float, wants_rows: bool, only_reads: bool, may_stop: bool = True
    ) -> bytes:
        """`only_reads`: when its answer is lost, nothing was done."""
        try:
            answer = await runner.run(text, deadline, wants_rows, may_stop)
        except DriverFailed as error:
            failed = error
        else:
            if runner.was_stopped and only_reads:  # SLEEP and the like only wake up
                raise TransientFailure("mysql: the query was stopped")
            return answer
        finally:
            self.broken = self.broken or runner.broken
        raise self._failure(runner, failed, only_reads)

    def _failure(self, runner: Runner, error: DriverFailed, only_reads: bool) -> CallFailed:
        if self._in_transaction and error.ends_transaction:
            self._is_undone = True
        if runner.gave_up:
            text = "mysql: no answer by the deadline"
            return TransientFailure(text) if only_reads else OutcomeUnknown(text)
        if error.number == TOO_LONG:
            return too_many_bytes(self._backend.limits)
        if error.number == INTERRUPTED and runner.was_stopped:
            return TransientFailure("mysql: the query was stopped")
        return failure(error, only_reads)

    async def _command(self, text: bytes, within_s: float) -> None:
        """A statement of our own; Unreachable when it does not work out."""
        deadline = clock.monotonic() + within_s
        try:
            await self._run(self._ready(), text, deadline, wants_rows=False, only_reads=True, may_stop=False)
        except CallFailed as error:
            raise Unreachable(str(error)) from None

    async def _only_reads(self, template: Template, deadline: float) -> bool:
        """Whether nothing is done when its answer is lost. In a transaction nothing is before its COMMIT. Else a
        function that it calls may be a stored one that writes, as far as those tell."""
        if self._in_transaction or not template.only_reads:
            return self._in_transaction
        known = self._backend.reading.get(template.calls)
        if known is None:
            runner = self._ready()
            lookup = _WRITING_FUNCTIONS % b", ".join(map(runner.session.link.literal, template.calls))
            rows = await self._run(runner, lookup, deadline, wants_rows=True, only_reads=True)
            known = self._backend.reading[template.calls] = rows == _NONE
        return known

    async def _call(self, text: bytes, deadline: float, wants_rows: bool) -> bytes:
        """A procedure: it may commit, and do to the session what statements may not."""
        try:
            return await self._run(self._ready(), text, deadline, wants_rows, only_reads=False)
        finally:
            self._is_suspect = True
            if not self._in_transaction:
                await self._inspect()

    async def _inspect(self) -> None:
        """After a procedure: roll back what it has left open, and use the connection no more if anything is not as it
        was."""
        if not self._is_suspect or self.broken:
            return
        self._is_suspect = False
        session = self._ready().session
        try:
            await self._command(b"ROLLBACK", OWN_S)
            async with asyncio.timeout(OWN_S):
                self.broken = self.broken or await look(session.link) != session.facts
        except (CallFailed, DriverFailed, TimeoutError):
            self._give_up()

    def _give_up(self) -> None:
        self.broken = True
        self._ready().give_up()


def _undone() -> TransientFailure:
    return TransientFailure("mysql: the server has rolled the transaction back")


def _too_late() -> TransientFailure:
    return TransientFailure("mysql: the deadline had passed before it could run")
