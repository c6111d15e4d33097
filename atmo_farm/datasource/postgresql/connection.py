"""One connection of the pool: how statements and transactions run on it, and what their ends mean."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psycopg2
from psycopg2.extensions import cursor

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure, Unreachable
from atmo_farm.datasource.postgresql.exchange import ANSWER_S, Exchange
from atmo_farm.datasource.postgresql.failures import READ_ONLY, failure, no_longer_good
from atmo_farm.datasource.postgresql.link import Link, Lost, TooLong
from atmo_farm.datasource.postgresql.session import WRITABLE, Session, is_misfit
from atmo_farm.datasource.postgresql.values import (
    ARRAYS_OF,
    FIRST_USER_TYPE,
    ArrayCaster,
    Shape,
    array_caster,
    as_comment,
    with_arrays,
)
from atmo_farm.datasource.postgresql.values import shape as shape_of
from atmo_farm.datasource.postgresql.wording import Wording
from atmo_farm.datasource.rows import PIECE, RowWriter, changed, small, too_many_bytes
from atmo_farm.datasource.statement import Statement, Variable

if TYPE_CHECKING:
    from atmo_farm.datasource.postgresql.backend import PostgresBackend

LONG_ROW = 1 << 20
"""Bytes of a row for which a connection is not kept."""


class PostgresConnection:
    """`base.Connection`."""

    def __init__(self, backend: PostgresBackend):
        self._backend = backend
        self._link = Link()
        self._exchange = Exchange(self._link, backend)
        self._session: Session
        self._in_transaction = False
        self.broken = False

    async def open(self) -> None:
        """Connect; Unreachable."""
        self._link = await self._backend.connect()
        self._exchange = Exchange(self._link, self._backend)
        self._session = Session(self._link, self._link.is_shared)

    def is_lost(self) -> bool:
        """Whether the server has ended it."""
        return self._link.is_lost()

    async def run(self, statement: Statement, variables: Sequence[Variable], comment: str, deadline: float) -> bytes:
        """Run one statement; see the package's docstring."""
        backend = self._backend
        session, wording = self._session, backend.wording(statement)
        self._exchange.is_given_up = False
        reads = statement.only_reads and statement.name not in backend.writing
        guarded = reads and not self._in_transaction
        try:
            if not guarded:
                await self._be_writable(deadline)
            elif session.wants_plan(wording) and wording.name not in backend.unfit:
                await self._plan(wording, deadline)
            is_planned = guarded and wording.name in session.plans
            known = session.plans[wording.name] if is_planned else None
            query = (wording.planned if is_planned else wording.plain).render(variables, self._link.driver)
            before, is_timed = self._before(guarded, deadline)
            result = await self._send(as_comment(comment) + before + query, deadline, is_timed)
            columns = result.description if known is None else None
            shape = known if columns is None else shape_of(columns)
            answer = await self._result(result, shape, statement.type == "select", deadline)
            if guarded:
                session.has_read(wording, shape)
            self._link.took(len(answer))
            return answer
        except psycopg2.Error as error:
            if guarded and error.pgcode == READ_ONLY:
                backend.writing.add(statement.name)
            elif guarded and is_misfit(error) and wording.name in session.plans:
                await self._forget_plan(wording, deadline)
            else:
                self.broken = self.broken or no_longer_good(error)
                raise failure(error, statement, variables) from None  # the driver's own text holds values
        except TooLong:
            too_long = too_many_bytes(self._backend.limits)
            raise (too_long if reads or self._in_transaction else OutcomeUnknown(str(too_long))) from None
        except Lost as error:
            if reads or self._in_transaction:
                raise TransientFailure(f"the connection was lost: {error}") from None
            raise OutcomeUnknown(f"the connection was lost before the answer: {error}") from None
        self._go_on()
        return await self.run(statement, variables, comment, deadline)

    async def begin(self) -> None:
        """BEGIN."""
        await self._be_writable(clock.monotonic() + ANSWER_S)
        await self._command("BEGIN", clock.monotonic() + ANSWER_S)
        self._in_transaction = True

    async def commit(self, deadline: float) -> None:
        """COMMIT. A transaction that has failed answers it with ROLLBACK."""
        if clock.monotonic() >= deadline:
            raise TransientFailure("the deadline was over before the COMMIT: rolled back")
        self._in_transaction = False
        try:
            result = await self._send("COMMIT", deadline)
        except psycopg2.Error as error:
            raise failure(error) from None
        except (Lost, TooLong) as error:
            self.broken = True
            raise OutcomeUnknown(f"the connection was lost during the COMMIT: {error}") from None
        if result.statusmessage != "COMMIT":
            raise CallFailed("the transaction was rolled back: one of its statements had failed")

    async def rollback(self) -> None:
        """ROLLBACK, or the connection is broken."""
        self._in_transaction = False
        try:
            await self._command("ROLLBACK", clock.monotonic() + ANSWER_S)
        except CallFailed:
            self.broken = True
            self.close()

    def cancel(self) -> None:
        """Ask the server to stop what runs; not at the deadline, if it does so by itself then."""
        self._exchange.cancel()

    async def ping(self) -> None:
        """Ask the server for nothing."""
        try:
            await self._command("SELECT 1", clock.monotonic() + ANSWER_S)
        except CallFailed as error:
            raise Unreachable(str(error)) from None

    def close(self) -> None:
        """Disconnect."""
        self.broken = True
        self._exchange.close()

    def _before(self, guarded: bool, deadline: float) -> tuple[str, bool]:
        """What stands in front of a query, and whether the server ends it at its deadline by itself."""
        left_ms, most_ms = int((deadline - clock.monotonic()) * 1000), self._backend.statement_timeout_ms
        if left_ms < 1:
            raise TransientFailure("the deadline was over before the statement began")
        if most_ms:
            left_ms = min(left_ms, most_ms)
        if guarded:
            return self._session.before_read(left_ms, most_ms)
        return f"SET LOCAL statement_timeout={left_ms};", True

    async def _be_writable(self, deadline: float) -> None:
        """From here on the server lets statements write; they may change settings, too."""
        if self._session.is_read_only() and not self._in_transaction:
            await self._command(WRITABLE, deadline)
        self._session.may_have_written()

    async def _plan(self, wording: Wording, deadline: float) -> None:
        """Have the server plan a select once for all times. What it cannot plan has its values in it, as before."""
        try:
            await self._send(f"PREPARE {wording.name} AS {wording.plan}", deadline, is_timed=False)
        except psycopg2.Error as error:
            self._session.forget_plan(wording)
            if is_misfit(error):
                self._backend.unfit.add(wording.name)
        else:
            self._session.is_planned(wording)
        self._go_on()

    async def _forget_plan(self, wording: Wording, deadline: float) -> None:
        """Tables have changed: the select runs without its plan, and later with a new one."""
        self._session.forget_plan(wording)
        try:
            await self._send(f"DEALLOCATE {wording.name}", deadline, is_timed=False)
        except psycopg2.Error:  # somebody else has done so
            pass

    def _go_on(self) -> None:
        """Between two messages of one statement."""
        if self._exchange.is_given_up:
            raise TransientFailure("the statement was stopped")

    async def _send(self, text: str, deadline: float, is_timed: bool = True) -> cursor:
        try:
            return await self._exchange.send(text, deadline, is_timed)
        finally:
            if self._link.lost:
                self.broken = True

    async def _result(self, result: cursor, shape: Shape | None, is_select: bool, deadline: float) -> bytes:
        if not is_select:
            row = result.fetchone() if shape is not None else None
            return changed(row[0] if row and type(row[0]) is int else 0, result.rowcount)
        if shape is None:
            return b"[]"
        limits, received = self._backend.limits, self._link.received()
        if received > self._backend.longest_text and not shape.has_bytes:
            raise too_many_bytes(limits)  # before it is all here a second and a third time
        if received > LONG_ROW * max(1, result.rowcount) and not self._in_transaction:
            self.broken = True  # libpq never gives back the buffer that a long row has needed
        arrays = await self._arrays(shape.types, deadline) if shape.has_user_types else {}
        if result.rowcount < PIECE and not arrays:
            return small(shape.names, result.fetchall(), limits)
        writer = RowWriter(shape.names, limits)
        while len(rows := result.fetchmany(PIECE)) == PIECE:
            writer.add(with_arrays(rows, arrays, result) if arrays else rows)
            await asyncio.sleep(0)
        writer.add(with_arrays(rows, arrays, result) if arrays else rows)
        return writer.finish()

    async def _arrays(self, types: Sequence[int], deadline: float) -> dict[int, ArrayCaster]:
        """The columns that are arrays of users' own types, by their places. What a type is, a backend asks once."""
        made = {at: type_ for at, type_ in enumerate(types) if type_ >= FIRST_USER_TYPE}
        known = self._backend.arrays
        unknown = set(made.values()) - known.keys()
        if unknown:
            found = await self._send(ARRAYS_OF.format(",".join(map(str, unknown))), deadline)
            known |= dict.fromkeys(unknown)
            known |= {array: array_caster(array, element) for array, element in found.fetchall()}
        return {at: caster for at, type_ in made.items() if (caster := known[type_]) is not None}

    async def _command(self, text: str, deadline: float) -> None:
        try:
            await self._send(text, deadline)
        except psycopg2.Error as error:
            raise failure(error) from None
        except (Lost, TooLong) as error:
            raise TransientFailure(f"the connection was lost: {error}") from None
