"""Statements of all kinds, their results and their failures: a part of every backend's suite."""

from __future__ import annotations

import asyncio

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed
from tests.contract.kit import PATIENCE_S, VALUE_CANARY, Database, Suite, fails


class StatementTests(Suite):
    async def test_open_ping_close(self, database: Database) -> None:
        """A connection answers until it is closed."""
        async with database.connected() as session:
            await session.connection.ping()
            assert not session.connection.broken and not session.connection.is_lost()

    async def test_select(self, database: Database) -> None:
        """Rows in their order, columns in theirs; NULL is null."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            await session.fill(table, self.snippets, "ä", "b")
            await session.change(f"INSERT INTO {table} (name) VALUES (NULL)")
            got = await session.json(f"SELECT name, amount, id FROM {table} ORDER BY id DESC")
            first, second, third = '"id":3', '"id":2', '"id":1'
            assert got.decode() == (
                f'[{{"name":null,"amount":null,{first}}},'
                f'{{"name":"b","amount":2,{second}}},{{"name":"ä","amount":1,{third}}}]'
            )

    async def test_no_rows(self, database: Database) -> None:
        """An empty array."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            assert await session.json(f"SELECT * FROM {table}") == b"[]"

    async def test_names_of_columns(self, database: Database) -> None:
        """Any text; a name that comes again gets a number, so that no key stands twice."""
        quote = "`" if database.dialect == "mysql" else '"'
        async with database.connected() as session:
            query = f"SELECT 1 AS {quote}größe 'x' 中{quote}, 2 AS a, 3 AS a, 4 AS a_2, 5 AS a"
            if database.dialect == "mysql":
                query = query.replace("'x'", "x")
            got = (await session.json(query)).decode()
            name = "größe x 中" if database.dialect == "mysql" else "größe 'x' 中"
            assert got == f'[{{"{name}":1,"a":2,"a_3":3,"a_2":4,"a_4":5}}]'

    async def test_changes(self, database: Database) -> None:
        """lastInsertID is the new row's; rowsAffected counts those that were found."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            insert = self.snippets.insert.format(table=table)
            assert await session.change(insert, "a", "1") == (1, 1)
            assert await session.change(insert, "b", "2") == (2, 1)
            assert (await session.change(f"UPDATE {table} SET amount = amount + ?", "10"))[1] == 2
            assert (await session.change(f"UPDATE {table} SET amount = 0 WHERE name = ?", "nobody"))[1] == 0
            assert (await session.change(f"DELETE FROM {table} WHERE name = ?", "a"))[1] == 1
            assert await session.rows(f"SELECT name, amount FROM {table}") == [{"name": "b", "amount": 12}]

    async def test_variables(self, database: Database) -> None:
        """`?` by turns, `$n` by number; those in strings, names and comments are none."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            await session.fill(table, self.snippets, "a", "b", "c")
            where = f"FROM {table} WHERE name = "
            assert await session.rows(f"SELECT amount {where}? OR amount = ? ORDER BY id", "a", "3") == [
                {"amount": 1},
                {"amount": 3},
            ]
            assert await session.rows(f"SELECT amount {where}$2 AND $1 = name AND amount = $3", "b", "b", "2") == [
                {"amount": 2}
            ]
            got = await session.rows(f"SELECT '?' AS a, 'it''s $1 ??' AS b /* ? */ {where}? -- ?", "a")
            assert got == [{"a": "?", "b": "it's $1 ??"}]

    async def test_text_around_a_statement(self, database: Database) -> None:
        """A semicolon and comments behind it, percent signs in it, a comment for the server before it."""
        async with database.connected() as session:
            assert await session.rows("SELECT '100%s %d %%' AS a ; -- end") == [{"a": "100%s %d %%"}]
            statement = database.prepare("SELECT 1 AS a")
            hostile = ("*/ SELECT 2 /*", "**//; SELECT 2; //**", "/*/ SELECT 2", "/* /* ?", "\\ ' \" ` $1 %s", "-- \n#")
            for comment in ("app=x handler=y", "", *hostile):
                got = await session.connection.run(statement, (), comment, clock.monotonic() + PATIENCE_S)
                assert got == b'[{"a":1}]'

    async def test_limit_and_offset(self, database: Database) -> None:
        """Their variables are whole numbers; anything else is an error, and nothing of it reaches the SQL."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            await session.fill(table, self.snippets, "a", "b", "c")
            query = f"SELECT amount FROM {table} ORDER BY id LIMIT ? OFFSET ?"
            assert await session.rows(query, "1", "2") == [{"amount": 3}]
            for wrong in (VALUE_CANARY, "1; DROP TABLE x", "1 OR 1", "-1 --"):
                await fails(CallFailed, session.rows(query, wrong, "0"))
            assert await session.rows(query, "2", "0") == [{"amount": 1}, {"amount": 2}]

    async def test_what_the_server_refuses(self, database: Database) -> None:
        """Wrong SQL, unknown tables, broken constraints: its words, without the variables; the connection goes on."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            wrong = await fails(CallFailed, session.json(self.snippets.wrong, VALUE_CANARY, type_="select"))
            assert self.snippets.wrong_words in str(wrong)
            absent = await fails(CallFailed, session.rows("SELECT * FROM no_such_table WHERE a = ?", VALUE_CANARY))
            assert "no_such_table" in str(absent)
            insert = f"INSERT INTO {table} (id, name) VALUES (7, ?)"
            await session.change(insert, VALUE_CANARY)
            await fails(CallFailed, session.change(insert, VALUE_CANARY))
            await fails(CallFailed, session.change(f"INSERT INTO {table} (id) VALUES (?)", VALUE_CANARY))
            assert not session.connection.broken
            assert await session.rows(f"SELECT id FROM {table}") == [{"id": 7}]

    async def test_check(self, database: Database) -> None:
        """The server's complaint about a query, which is not run."""
        async with database.connected() as session:
            table = await session.table(self.snippets)
            check = session.backend.check
            assert await check(database.prepare(self.snippets.insert.format(table=table))) == ""
            assert await check(database.prepare(f"SELECT name FROM {table} WHERE id = ?")) == ""
            assert await check(database.prepare(f"SELECT name FROM {table} WHERE id = $1 OR id = $1")) == ""
            assert self.snippets.wrong_words in await check(database.prepare("SELECT FROM WHERE ?"))
            assert "no_such_table" in await check(database.prepare("DELETE FROM no_such_table"))
            assert "no_such_column" in await check(database.prepare(f"SELECT no_such_column FROM {table}"))
            assert await check(database.prepare(f"DELETE FROM {table}")) == ""
            assert await session.json(f"SELECT * FROM {table}") == b"[]"

    async def test_several_connections(self, database: Database) -> None:
        """Each has its own answers."""
        backend = database.backend()

        async def work(number: int) -> list[object]:
            async with database.another(backend) as session:
                return [await session.value(f"SELECT {self.snippets.text_of}", f"{number}/{n}") for n in range(50)]

        got = await asyncio.gather(*(work(number) for number in range(4)))
        await backend.close()
        assert got == [[f"{number}/{n}" for n in range(50)] for number in range(4)]
