"""One connection of the pool: how statements and transactions run on it, and what their ends mean."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure, Unreachable
from atmo_farm.datasource.mysql.failures import INTERRUPTED, TOO_LONG, DriverFailed, failure
from atmo_farm.datasource.mysql.session import Session, look
from atmo_farm.datasource.mysql.values import Template, before
from atmo_farm.datasource.rows import too_many_bytes
from atmo_farm.datasource.statement import Statement, Variable

if TYPE_CHECKING:
    from atmo_farm.datasource.mysql.backend import MySqlBackend

ANSWER_S = 1.0
"""After a cancel, and for ROLLBACK: how long the server may take."""

PING_S = 2.0

_NEVER = math.inf


class MySqlConnection:
    """`base.Connection`."""

    def __init__(self, backend: MySqlBackend):
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        self._in_transaction = self._is_undone = False
        """It is in a transaction; the server has undone that."""
        self._is_suspect = False
        """A procedure has run since the session was looked at."""
        self._is_asking = False
        self._deadline = _NEVER
        """Of what it asks, or has asked last."""
        self._may_stop = False
        """What it asks can be stopped by KILL QUERY."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._stopping: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._gave_up = False
        self.broken = False

    async def open(self) -> None:
        """Connect; Unreachable."""
        self._session = await self._backend.connect()

    def is_lost(self) -> bool:
        """Whether the server has ended it."""
        return self._session is None or self._session.link.is_lost()

    async def run(self, statement: Statement, variables: Sequence[Variable], comment: str, deadline: float) -> bytes:
        """Run one statement; see the package's docstring."""
        template = self._backend.template(statement)
        session = self._ready()
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
        if template.first_word != "call":
            # Nothing of a transaction is done before its COMMIT.
            return await self._run(session, text, deadline, statement, statement.only_reads or self._in_transaction)
        try:
            return await self._run(session, text, deadline, statement, only_reads=False)
        finally:
            self._is_suspect = True
            if not self._in_transaction:
                await self._inspect(session)

    async def begin(self) -> None:
        """START TRANSACTION; Unreachable."""
        await self._command(b"START TRANSACTION", self._backend.connect_timeout_s)
        self._in_transaction, self._is_undone = True, False

    async def commit(self, deadline: float) -> None:
        """COMMIT."""
        session = self._ready()
        if self._is_undone:
            raise _undone()
        if clock.monotonic() >= deadline:
            raise _too_late()
        try:
            await self._ask(session, b"COMMIT", deadline, may_stop=False)
        except DriverFailed as error:
            failed = error
        else:
            self._in_transaction = False
            await self._inspect(session)
            return
        outcome = self._failure(failed, only_reads=False)
        if isinstance(outcome, TransientFailure):
            raise outcome
        raise OutcomeUnknown(str(outcome))

    async def rollback(self) -> None:
        """ROLLBACK."""
        try:
            await self._command(b"ROLLBACK", ANSWER_S)
        except Unreachable:
            self._give_up()
        self._in_transaction = self._is_undone = False
        await self._inspect(self._ready())

    async def ping(self) -> None:
        """Ask for nothing."""
        await self._command(b"DO 0", PING_S)

    def cancel(self) -> None:
        """Stop what runs now."""
        if not self._is_asking or self._stopping is not None or self.broken:
            return
        if self._may_stop:
            self._stopping = self._loop.create_task(self._stop(), name="mysql cancel")
            self._patience = self._loop.call_later(ANSWER_S, self._give_up)
        else:
            self._give_up()

    def close(self) -> None:
        """Disconnect at once."""
        self.broken = True
        for timer in (self._timer, self._patience):
            if timer is not None:
                timer.cancel()
        if self._stopping is not None:
            self._stopping.cancel()
        if self._session is not None:
            self._session.link.close()

    # What runs

    def _ready(self) -> Session:
        if self._session is None:
            raise Unreachable("not connected")
        return self._session

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

    async def _command(self, text: bytes, within_s: float) -> None:
        """A statement of our own; Unreachable when it does not work out."""
        try:
            await self._ask(self._ready(), text, clock.monotonic() + within_s, may_stop=False)
        except DriverFailed as error:
            failed = error
        else:
            return
        raise Unreachable(str(self._failure(failed, only_reads=True)))

    async def _run(
        self, session: Session, text: bytes, deadline: float, statement: Statement, only_reads: bool
    ) -> bytes:
        try:
            answer = await self._ask(session, text, deadline, statement.type == "select")
        except DriverFailed as error:
            failed = error
        else:
            if self._stopping is not None and statement.only_reads:  # SLEEP and the like only wake up
                raise TransientFailure("mysql: the query was stopped")
            return answer
        raise self._failure(failed, only_reads)

    async def _inspect(self, session: Session) -> None:
        """After a procedure, which may do to the session what statements may not: roll back what it has left open, and
        use the connection no more if anything is not as it was."""
        if not self._is_suspect or self.broken:
            return
        self._is_suspect = False
        try:
            await self._command(b"ROLLBACK", ANSWER_S)
            async with asyncio.timeout(ANSWER_S):
                self.broken = self.broken or await look(session.link) != session.facts
        except (CallFailed, DriverFailed, TimeoutError):
            self._give_up()

    async def _ask(
        self, session: Session, text: bytes, deadline: float, wants_rows: bool = False, may_stop: bool = True
    ) -> bytes:
        """Send it and give its answer, or stop it at the deadline."""
        self._begin(deadline, may_stop)
        try:
            return await session.link.send(text, wants_rows)
        except asyncio.CancelledError:
            self._give_up()
            raise
        finally:
            self._is_asking = False
            if self._stopping is not None:
                await self._stopped(self._stopping)
            self.broken = self.broken or session.link.is_spent or not session.is_quoted_well()

    def _begin(self, deadline: float, may_stop: bool) -> None:
        self._stopping, self._gave_up = None, False
        self._is_asking, self._may_stop, self._deadline = True, may_stop, deadline
        if deadline < self._timer_at:
            self._set_timer()

    def _failure(self, error: DriverFailed, only_reads: bool) -> CallFailed:
        if self._in_transaction and error.ends_transaction:
            self._is_undone = True
        if self._gave_up:
            text = "mysql: no answer by the deadline"
            return TransientFailure(text) if only_reads else OutcomeUnknown(text)
        if error.number == TOO_LONG:
            return too_many_bytes(self._backend.limits)
        if error.number == INTERRUPTED and self._stopping is not None:
            return TransientFailure("mysql: the query was stopped")
        return failure(error, only_reads)

    # Its end

    def _set_timer(self) -> None:
        """One timer for many statements: most end long before it, and only the next deadline needs one."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self._loop.call_later(max(0.0, self._deadline - clock.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, _NEVER
        if not self._is_asking:
            return
        if clock.monotonic() >= self._deadline:
            self.cancel()
        else:
            self._set_timer()

    async def _stop(self) -> None:
        """KILL QUERY. When that, or what it should bring about, takes longer than ANSWER_S, the connection is cut."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._backend.cancel(self._ready(), ANSWER_S)
        except (TimeoutError, Unreachable):
            self._give_up()

    async def _stopped(self, stopping: asyncio.Task[None]) -> None:
        """The statement has ended; lest it stops the next one too, the server must have been told by then."""
        if not self.broken:
            await asyncio.wait({stopping})
        if self._patience is not None:
            self._patience.cancel()

    def _give_up(self) -> None:
        self._gave_up = self.broken = True
        if self._session is not None:
            self._session.link.cut()


def _undone() -> TransientFailure:
    return TransientFailure("mysql: the server has rolled the transaction back")


def _too_late() -> TransientFailure:
    return TransientFailure("mysql: the deadline had passed before it could run")
