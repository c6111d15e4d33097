"""Values on their way in and out: every column type's JSON, and variables that try to be SQL."""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.contract import types_page
from tests.contract.kit import Database, Session, Suite
from tests.streams import run

PAYLOADS = (
    "", " ", "'", "''", '"', "`", "\\", "\\'", "\\\\'", "'\\", "%", "%s", "%(a)s", "?", "??", "$1", "$$", "$$'$$", ";",
    "--", "-- '", "/*", "*/", "/* ' */", "#", "\n", "\r\n", "\t", "\x1a", "\x08", "E'", "E\\'", "X'41'", "N'", "_utf8'",
    "' OR '1'='1", "' OR 1=1 --", "'; DROP TABLE {table}; --", "\\'; DROP TABLE {table}; --",
    "'); DELETE FROM {table}; --",
    '"; DROP TABLE {table}; --', "1; DROP TABLE {table}", "' UNION SELECT 1,2,3 --", "'||(SELECT version())||'",
    "'+SLEEP(5)+'", "$$; DROP TABLE {table}; $$", "$tag$'$tag$", "\u2019", "\u02bc", "\uff07", "\u00bf'", "\u00bf\\'",
    "\ufeff", "\u202e'", "ä\u0308", "中文'", "😀'", "\U0010ffff", "\u0000", "a\u0000' OR 1=1", "NULL", "true", "0x27",
    "{{}}", "{", "}", "{0}", ":a", "@a", "@@version", "\\x27", "\\u0027", "\\047", "\\N", "\\.",
    "'" * 1000, "\\" * 1001,
)  # fmt: skip

RAW = (b"\xff", b"\xbf'", b"\xbf\\'", b"\xc0\xa7", b"\xed\xa0\x80", b"\xff\x00\\'\"", bytes(range(256)), b"\xff" * 5000)
"""Bytes that are no UTF-8: they can only be bytes to a database."""

_PIECES = (*PAYLOADS[:60], "a", "SELECT", " ", "1", "ü", "\u2028")


class ValueTests(Suite):
    async def set_up_types(self, session: Session) -> None:
        """Make what the column types need; a backend's own class may have more to do."""

    async def test_types(self, database: Database) -> None:
        """A column of each type, as JSON; its NULL is null."""
        got: dict[tuple[str, str], str] = {}
        async with database.connected() as session:
            await self.set_up_types(session)
            for number, case in enumerate(self.types):
                table = f"types_{number}_{os.getpid()}"
                await session.ddl(f"DROP TABLE IF EXISTS {table}")
                await session.ddl(f"CREATE TABLE {table} (n int, v {case.type})")
                await session.ddl(f"INSERT INTO {table} VALUES (1, {case.value})")
                await session.ddl(f"INSERT INTO {table} (n) VALUES (2)")
                rows = (await session.json(f"SELECT v FROM {table} ORDER BY n")).decode()
                assert rows.startswith('[{"v":') and rows.endswith('},{"v":null}]'), case
                got[case.type, case.value] = rows.removeprefix('[{"v":').removesuffix('},{"v":null}]')
        assert got == {(case.type, case.value): case.json for case in self.types}

    def test_the_page_of_types(self, database: Database, request: pytest.FixtureRequest) -> None:
        """docs/sql-types.md says what `types` says; `pytest --write-docs tests/contract` writes it."""
        types_page.check(database.dialect, self.types, write=request.config.getoption("--write-docs"))

    async def inject(self, database: Database, count: int) -> None:
        """`count` payloads come back as they went in, and the table beside them is what it was."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            await session.fill(table, self.snippets, "only this")
            place = self.snippets.text_of
            query = f"SELECT {place} AS a, {place} AS b, {place} AS c, {place} AS d, {place} AS e"
            payloads = _payloads(count, table, self.snippets.takes_nul)
            for five in zip(payloads, payloads, payloads, payloads, payloads, strict=False):
                assert await session.rows(query, *five) == [dict(zip("abcde", five, strict=True))]
            assert await session.rows(f"SELECT name, amount FROM {table}") == [{"name": "only this", "amount": 1}]

    async def test_payloads_in_a_table(self, database: Database) -> None:
        """Each is stored, found by its own value and by no other, and comes back as it was."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            payloads = [p for p in dict.fromkeys(PAYLOADS) if self.snippets.takes_nul or "\0" not in p]
            await session.fill(table, self.snippets, *payloads)
            got = await session.rows(f"SELECT name FROM {table} ORDER BY amount")
            assert [row["name"] for row in got] == payloads
            for amount, payload in enumerate(payloads, 1):
                query = f"SELECT name FROM {table} WHERE name = ? AND amount = ?"
                assert await session.rows(query, payload, str(amount)) == [{"name": payload}]

    async def test_bytes_in_a_table(self, database: Database) -> None:
        """Bytes that are no UTF-8 are stored as they are, and are read as base64."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            for amount, raw in enumerate(RAW):
                await session.change(f"INSERT INTO {table} (amount, data) VALUES (?, ?)", str(amount), raw)
            got = await session.rows(f"SELECT data FROM {table} ORDER BY amount")
            assert [base64.b64decode(str(row["data"])) for row in got] == list(RAW)

    def test_any_text(self, database: Database) -> None:
        """Whatever a guest sends."""
        barred = "" if self.snippets.takes_nul else "\0"
        texts = st.text(st.characters(codec="utf-8", exclude_characters=barred), max_size=200)
        place = self.snippets.text_of

        @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.lists(texts, min_size=3, max_size=3), min_size=1, max_size=20))
        @example([["\\", "'", "\\'"]])
        def check(rounds: list[list[str]]) -> None:
            async def body() -> None:
                async with database.connected() as session:
                    for three in rounds:
                        got = await session.json(f"SELECT {place} AS a, {place} AS b, {place} AS c", *three)
                        assert msgspec.json.decode(got) == [dict(zip("abc", three, strict=True))]

            run(body())

        check()


def _payloads(count: int, table: str, takes_nul: bool) -> Iterator[str]:
    """The list, then texts put together from it."""
    chance = random.Random(count)
    for number in range(count):
        if number < len(PAYLOADS):
            text = PAYLOADS[number]
        else:
            text = "".join(chance.choice(_PIECES) for _ in range(chance.randint(1, 6)))
        text = text.replace("{table}", table)
        yield text if takes_nul else text.replace("\0", "")
