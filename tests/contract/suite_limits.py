"""Caps on results, deadlines and cancelled statements: a part of every backend's suite."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from atmo_farm import clock
from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure
from tests.contract.kit import Database, Suite, fails

MIB = 1 << 20


class LimitTests(Suite):
    async def test_as_many_rows_as_allowed(self, database: Database) -> None:
        """The cap is a number of rows; one more is an error, and the connection goes on."""
        async with database.connected(Limits(rows=3)) as session:
            table = await session.table(self.snippets)
            await session.fill(table, self.snippets, "a", "b", "c")
            assert len(await session.rows(f"SELECT * FROM {table}")) == 3
            await session.fill(table, self.snippets, "d")
            error = await fails(CallFailed, session.rows(f"SELECT * FROM {table}"))
            assert "more than 3 rows" in str(error)
            assert len(await session.rows(f"SELECT * FROM {table} LIMIT 2")) == 2

    async def test_as_many_bytes_as_allowed(self, database: Database) -> None:
        """The cap is a number of bytes of JSON, to the byte."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            await session.fill(table, self.snippets, *("ä" * 100 for _ in range(1200)))
            length = len(await session.json(f"SELECT * FROM {table}"))
        async with database.connected(Limits(bytes=length)) as session:
            assert len(await session.json(f"SELECT * FROM {table}")) == length
        async with database.connected(Limits(bytes=length - 1)) as session:
            error = await fails(CallFailed, session.json(f"SELECT * FROM {table}"))
            assert f"longer than {length - 1} bytes" in str(error)

    @pytest.mark.alone
    async def test_ten_million_rows(self, database: Database, figure: Callable[[str, object], None]) -> None:
        """An error within 2 s, at a price of 64 MiB at most."""
        async with database.connected() as session:
            await session.connection.ping()
            with Growth() as growth:
                began = clock.monotonic()
                await fails(CallFailed, session.json(self.snippets.many_rows))
                took_s = clock.monotonic() - began
            figure("10⁷ rows: error after, s", took_s)
            figure("10⁷ rows: growth, MiB", growth.mib)
            assert took_s <= 2
            assert growth.mib <= 64

    @pytest.mark.parametrize("size_mib", [17, 20, 23, 32, 48])
    async def test_a_row_that_is_too_long(self, database: Database, size_mib: int) -> None:
        """An error, at a price of three times the cap at most."""
        async with database.connected() as session:
            await session.connection.ping()
            with Growth() as growth:
                await fails(CallFailed, session.json(self.snippets.wide_row.format(size=size_mib * MIB)))
            assert growth.mib <= 3 * 16

    @pytest.mark.alone
    async def test_a_select_at_its_deadline(self, database: Database) -> None:
        """Stopped there, ± 10 %; the connection takes the next statement."""
        async with database.connected() as session:
            began = clock.monotonic()
            await fails(TransientFailure, session.json(self.snippets.endless_select, within_s=1.0))
            assert 0.9 <= clock.monotonic() - began <= 1.1
            assert not session.connection.broken
            assert await session.rows("SELECT 1 AS a") == [{"a": 1}]

    @pytest.mark.alone
    async def test_an_insert_at_its_deadline(self, database: Database) -> None:
        """Stopped there, ± 10 %; a transient failure means that it was not done."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            insert = self.snippets.endless_insert.format(table=table)
            began = clock.monotonic()
            error = await fails(CallFailed, session.json(insert, within_s=1.0), exactly=False)
            assert 0.9 <= clock.monotonic() - began <= 1.1
            assert isinstance(error, (TransientFailure, OutcomeUnknown))
            async with database.another(session.backend) as other:
                assert await other.value(f"SELECT count(*) FROM {table}") == 0

    async def test_a_deadline_that_is_over(self, database: Database) -> None:
        """Nothing is begun."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            insert = self.snippets.insert.format(table=table)
            await fails(TransientFailure, session.json(insert, "a", "1", within_s=-0.001))
            assert await session.json(f"SELECT * FROM {table}") == b"[]"

    async def test_cancel(self, database: Database) -> None:
        """A statement that runs ends within a second; the connection takes the next one."""
        async with database.connected() as session:
            running = asyncio.create_task(session.json(self.snippets.endless_select))
            await self.until_running(session)
            began = clock.monotonic()
            session.connection.cancel()
            await fails(TransientFailure, running)
            assert clock.monotonic() - began <= 1.0
            assert not session.connection.broken
            assert await session.rows("SELECT 1 AS a") == [{"a": 1}]

    async def test_cancel_of_nothing(self, database: Database) -> None:
        """The next statement does not suffer."""
        async with database.connected() as session:
            for n in range(20):
                session.connection.cancel()
                assert await session.rows(f"SELECT {n} AS a") == [{"a": n}]

    async def test_cancels_at_any_moment(self, database: Database, amount: Callable[[int, int], int]) -> None:
        """A statement gives its own answer or fails as transient, never the answer of another; one that nobody has
        cancelled gives its answer."""
        chance = random.Random(1)
        stopped = 0
        async with database.connected() as session:

            async def strike(turns: int) -> None:
                for _ in range(turns):
                    await asyncio.sleep(0)
                session.connection.cancel()

            for n in range(amount(300, 10_000)):
                cancelled = n % 3 != 2
                striking = asyncio.create_task(strike(chance.randrange(40))) if cancelled else None
                try:
                    assert await session.rows(f"SELECT {n} AS a") == [{"a": n}]
                except TransientFailure:
                    stopped += 1
                    assert cancelled
                if striking is not None:
                    await striking
            assert not session.connection.broken
        assert stopped <= n * 2 / 3


class Growth:
    """How much more memory this process has needed at most, in MiB, between `with` and its end."""

    mib = 0.0

    def __enter__(self) -> Growth:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        self._before = _kib("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.mib = (_kib("VmHWM") - self._before) / 1024


def _kib(name: str) -> int:
    match = re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1])
