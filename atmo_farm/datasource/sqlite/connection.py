"""A handle of the pool: which thread its statements run on, and what their ends mean."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure, Unreachable
from atmo_farm.datasource.sqlite.failures import failure, is_interrupt
from atmo_farm.datasource.sqlite.jobs import OVER, STUCK_S, Job, Stuck
from atmo_farm.datasource.sqlite.results import Rendered, Value
from atmo_farm.datasource.sqlite.turns import Turn, refuse
from atmo_farm.datasource.sqlite.workers import Workers
from atmo_farm.datasource.statement import Slot, Statement, Variable, whole_number

if TYPE_CHECKING:
    from atmo_farm.datasource.sqlite.backend import SqliteBackend

GIVEN_UP = "given up"
ROLLED_BACK = "the transaction is over: it was rolled back"
LARGEST = (1 << 63) - 1

ResultT = TypeVar("ResultT")


class SqliteConnection:
    """`base.Connection`."""

    def __init__(self, backend: SqliteBackend):
        self._backend = backend
        self._in_transaction = self._holds = self._is_over = False
        """`_holds`: its transaction has begun on the writer. `_is_over`: it did, and was rolled back since."""
        self._turn: Turn | None = None
        self._job: Job[Any] | None = None
        self.broken = False

    async def open(self) -> None:
        """See that the database can be used; Unreachable."""
        await self._backend.ready()

    def is_lost(self) -> bool:
        """There is no server that could end it."""
        return False

    async def run(self, statement: Statement, variables: Sequence[Variable], comment: str, deadline: float) -> bytes:  # noqa: ARG002
        """Run one statement. The comment is left out: there is no server's list of statements to read it in."""
        rendered = self._render(statement, variables)
        if clock.monotonic() >= deadline:
            raise TransientFailure(OVER)
        if self._is_over:
            raise TransientFailure(ROLLED_BACK)
        backend, reads = self._backend, statement.only_reads
        if self._holds:
            job = Job(rendered.write_more, deadline, joins=True)
        elif reads and backend.readers is not backend.writer:
            return await self._perform(backend.readers, Job(rendered.read, deadline, joins=False), rendered)
        else:
            await self._take_turn(deadline)
            work = rendered.read if reads else rendered.write_first if self._in_transaction else rendered.write
            job = Job(work, deadline, joins=False)
        try:
            return await self._perform(backend.writer, job, rendered, may_be_done=not (reads or self._in_transaction))
        finally:
            self._settle(job)

    async def begin(self) -> None:
        """From now on; on the writer it begins with its first write."""
        self._in_transaction = True

    async def commit(self, deadline: float) -> None:
        """COMMIT, if anything was written."""
        if clock.monotonic() >= deadline:
            raise TransientFailure("the deadline was over before the COMMIT: rolled back")
        if self._is_over:
            raise TransientFailure(ROLLED_BACK)
        if self._holds:
            job = Job(_commit, deadline, joins=True)
            try:
                await self._perform(self._backend.writer, job, None, may_be_done=True)
                self._holds = False
                self._backend.turns.pass_on()
            except BaseException:
                self._settle(job)
                raise
        self._in_transaction = False

    async def rollback(self) -> None:
        """ROLLBACK, if anything was written."""
        self._in_transaction = self._is_over = False
        if not self._holds:
            return
        job = Job(_roll_back, clock.monotonic() + STUCK_S, joins=True)
        try:
            await self._perform(self._backend.writer, job, None)
        except CallFailed:
            self.broken = True
        finally:
            self._settle(job)

    def cancel(self) -> None:
        """Interrupt what runs; what waits for its turn ends at once."""
        if self._turn is not None:
            refuse(self._turn, GIVEN_UP)
        if self._job is not None:
            self._job.stop(GIVEN_UP)

    async def ping(self) -> None:
        """See the database answer."""
        await self._backend.look(STUCK_S)

    def close(self) -> None:
        """Give up what runs; a transaction is rolled back."""
        self.broken = True
        self.cancel()
        if self._holds and self._job is None:
            self._let_go(is_open=True)

    # Parts

    def _render(self, statement: Statement, variables: Sequence[Variable]) -> Rendered:
        values: list[Value] = list(variables)

        def place(slot: Slot) -> str:
            if slot.is_count:
                values[slot.index] = min(LARGEST, int(whole_number(variables[slot.index])))
            return f"?{slot.index + 1}"

        sql = statement.render(place)
        return Rendered(sql, values, statement, variables, self._backend.limits)

    async def _take_turn(self, deadline: float) -> None:
        """On the writer."""
        self._turn = self._backend.turns.ask()
        try:
            await self._backend.turns.wait(self._turn, deadline)
        finally:
            self._turn = None

    async def _perform(
        self, workers: Workers, job: Job[ResultT], rendered: Rendered | None, *, may_be_done: bool = False
    ) -> ResultT:
        """Run a job. `may_be_done`: if its end does not become known, it may still have been done."""
        self._job = job
        try:
            return await workers.run(job)
        except sqlite3.Error as error:
            if is_interrupt(error):
                raise TransientFailure(job.why) from None
            statement, variables = (rendered.statement, rendered.variables) if rendered is not None else (None, ())
            failed = failure(error, statement, variables, may_be_done=may_be_done)
            if isinstance(failed, (Unreachable, OutcomeUnknown)):
                self._lose()
            raise failed from None
        except Stuck:
            self._lose()
            text = "the disk does not answer"
            raise (OutcomeUnknown(text) if may_be_done else TransientFailure(text)) from None
        except Unreachable:
            self._lose()
            raise
        except asyncio.CancelledError:
            self.broken = True
            raise
        finally:
            self._job = None

    def _lose(self) -> None:
        """Neither this handle nor the next shall take it for granted that the database can be used."""
        self.broken = True
        self._backend.is_good = False

    def _settle(self, job: Job[Any]) -> None:
        """After a job on the writer: keep the turn while a transaction is open."""
        held = self._holds
        self._holds = self._in_transaction and job.left_open and not self.broken
        if not self._holds:
            self._is_over = held and self._in_transaction
            self._let_go(is_open=held or job.left_open or self.broken)

    def _let_go(self, *, is_open: bool) -> None:
        """Pass the turn on; what may be open is rolled back before the next one's job."""
        self._holds = False
        if is_open:
            self._backend.writer.begin(Job(_roll_back, float("inf"), joins=True))
        self._backend.turns.pass_on()


def _commit(connection: sqlite3.Connection, job: Job[None]) -> None:
    job.patiently(lambda: connection.execute("COMMIT"))


def _roll_back(connection: sqlite3.Connection, _: Job[None]) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
