"""SQLite's files: how they are made, what they may be, and what happens when they are damaged, gone or locked."""

# ruff: noqa: ASYNC240 - files of a few kilobytes

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed, TransientFailure, Unreachable
from atmo_farm.datasource.sqlite import SqliteBackend, file
from tests.contract.databases import Database, fails
from tests.contract.test_database_sqlite import SNIPPETS, sqlite


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def database(path: Path) -> Database:
    return sqlite(str(path))


def modes(folder: Path) -> dict[str, int]:
    return {found.name: stat.S_IMODE(found.stat().st_mode) for found in folder.iterdir()}


def foreign(path: Path, *statements: str) -> list[object]:
    """What another program does to the file."""
    with sqlite3.connect(path) as connection:
        results = [row for statement in statements for row in connection.execute(statement)]
    connection.close()
    return results


async def test_all_files_are_its_owners_alone(database: Database, path: Path) -> None:
    """Whatever the process's umask is; and after the end only the database is left."""
    before = os.umask(0)
    try:
        async with database.connected() as session:
            await session.table(SNIPPETS)
            assert modes(path.parent) == {"app.db": 0o600, "app.db-wal": 0o600, "app.db-shm": 0o600}
        assert modes(path.parent) == {"app.db": 0o600}
    finally:
        os.umask(before)


async def test_pragmas(database: Database, path: Path) -> None:
    """Foreign keys count on every thread, and the file's log is a write-ahead log."""
    async with database.connected() as session:
        await session.ddl("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        await session.ddl("CREATE TABLE children (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents)")
        error = await fails(CallFailed, session.change("INSERT INTO children (parent) VALUES (1)"))
        assert str(error) == "FOREIGN KEY constraint failed"
        assert await session.value("SELECT foreign_keys FROM pragma_foreign_keys") == 1
    assert foreign(path, "PRAGMA journal_mode") == [("wal",)]


async def test_an_existing_file_is_used_as_it_is(database: Database, path: Path) -> None:
    foreign(path, "CREATE TABLE a (b)", "INSERT INTO a VALUES ('there')")
    path.chmod(0o640)
    async with database.connected() as session:
        assert await session.value("SELECT b FROM a") == "there"
    assert modes(path.parent)["app.db"] == 0o640


async def test_modes_of_opening(database: Database, path: Path) -> None:
    error = await fails(Unreachable, unopened(sqlite(str(path), "rw")))
    assert str(error) == f"{path}: no such file or directory"
    error = await fails(Unreachable, unopened(sqlite(str(path), "ro")))
    assert not path.exists()
    foreign(path, "CREATE TABLE a (b)")
    async with sqlite(str(path), "ro").connected() as session:
        assert await session.rows("SELECT * FROM a") == []
        error = await fails(CallFailed, session.change("INSERT INTO a VALUES (1)"))
        assert str(error) == "attempt to write a readonly database"
    async with sqlite(str(path), "rw").connected() as session:
        assert await session.change("INSERT INTO a VALUES (1)") == (1, 1)


async def unopened(database: Database) -> None:
    async with database.connected():
        pass


async def test_places_that_hold_no_database(tmp_path: Path) -> None:
    error = await fails(Unreachable, unopened(sqlite(str(tmp_path / "nowhere" / "app.db"))))
    assert f"there is no folder {tmp_path / 'nowhere'}" in str(error)
    error = await fails(Unreachable, unopened(sqlite(str(tmp_path))))
    assert str(error) == f"{tmp_path}: the file cannot be opened"
    error = await fails(Unreachable, unopened(sqlite("/proc/app.db")))
    assert "cannot be made" in str(error)


async def test_a_file_that_is_no_database(database: Database, path: Path) -> None:
    path.write_bytes(b"this is no database, and longer than its header would be".ljust(5000, b"."))
    error = await fails(Unreachable, unopened(database))
    assert str(error) == f"{path}: the file is no SQLite database"
    assert path.read_bytes().startswith(b"this is no database")


async def test_a_damaged_file_is_out_of_reach_until_it_is_mended(database: Database, path: Path) -> None:
    foreign(path, "CREATE TABLE a (b)", "INSERT INTO a SELECT hex(randomblob(500)) FROM json_each('[1,2,3,4,5,6,7,8]')")
    good = path.read_bytes()
    path.write_bytes(good[:4096] + b"\xff" * (len(good) - 4096))
    backend = database.backend()
    async with database.another(backend) as session:
        error = await fails(Unreachable, session.json("SELECT count(*), max(b) FROM a"))
        assert str(error) == "the file is damaged"
        assert session.connection.broken
    mended = path.with_name("mended")
    mended.write_bytes(good)
    mended.rename(path)
    for left in ("app.db-wal", "app.db-shm"):
        path.with_name(left).unlink(missing_ok=True)
    async with database.another(backend) as session:
        assert await session.value("SELECT count(*) FROM a") == 8
    await backend.close()


async def test_a_file_that_was_replaced_is_opened_anew(database: Database, path: Path) -> None:
    """As after a backup was put in its place, with the farm running."""
    backup = path.with_name("backup.db")
    foreign(backup, "CREATE TABLE a (b)", "INSERT INTO a VALUES ('of the backup')")
    async with database.connected() as session:
        await session.ddl("CREATE TABLE a (b)")
        assert await session.rows("SELECT * FROM a") == []
        path.with_name("app.db-wal").unlink()
        path.with_name("app.db-shm").unlink()
        backup.rename(path)
        assert await session.value("SELECT b FROM a") == "of the backup"
        assert await session.change("INSERT INTO a VALUES ('new')") == (2, 1)
    assert foreign(path, "SELECT count(*) FROM a") == [(2,)]


async def test_a_file_that_is_gone_is_not_made_anew(database: Database, path: Path) -> None:
    """An empty database in its place would answer `no such table`, for good; so it is out of reach."""
    async with database.connected() as session:
        table = await session.table(SNIPPETS)
        kept = path.with_name("kept.db")
        path.rename(kept)
        for doing in (session.rows(f"SELECT * FROM {table}"), session.change(f"INSERT INTO {table} (name) VALUES (1)")):
            error = await fails(Unreachable, doing)
            assert str(error) == f"{path}: no such file or directory"
        assert session.connection.broken
        assert not path.exists()
        await fails(Unreachable, session.backend.connection().open())
        kept.rename(path)
        async with database.another(session.backend) as other:
            assert await other.rows(f"SELECT * FROM {table}") == []


LOCKING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
print("locked", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
print("done", flush=True)
"""


class Locked:
    """Another process that keeps the file locked until it is told."""

    def __init__(self, path: Path, begin: str):
        command = (sys.executable, "-c", LOCKING, str(path), begin)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"locked\n"

    def let_go(self) -> None:
        self.process.communicate(b"\n")


@pytest.fixture
def lock(path: Path) -> Iterator[list[Locked]]:
    locked: list[Locked] = []
    yield locked
    for each in locked:
        each.process.kill()
        each.process.communicate()


@pytest.mark.alone
async def test_another_processs_lock_is_waited_for(database: Database, path: Path, lock: list[Locked]) -> None:
    """Readers do not mind; a writer goes on when the lock is gone, and fails as transient at its deadline."""
    async with database.connected() as session, database.another(session.backend) as reader:
        table = await session.table(SNIPPETS)
        insert = SNIPPETS.insert.format(table=table)
        lock.append(await asyncio.to_thread(Locked, path, "BEGIN IMMEDIATE"))
        began = clock.monotonic()
        error = await fails(TransientFailure, session.json(insert, "late", "1", within_s=1.0))
        assert "another process" in str(error)
        assert 0.9 <= clock.monotonic() - began <= 1.1
        waiting = asyncio.create_task(session.change(insert, "a", "1"))
        assert await reader.rows(f"SELECT name FROM {table}") == []
        assert not waiting.done()
        await asyncio.to_thread(lock[0].let_go)
        assert await waiting == (1, 1)
        assert await reader.rows(f"SELECT name FROM {table}") == [{"name": "a"}]


@pytest.mark.alone
async def test_waiting_for_a_lock_can_be_given_up(database: Database, path: Path, lock: list[Locked]) -> None:
    async with database.connected() as session:
        table = await session.table(SNIPPETS)
        lock.append(await asyncio.to_thread(Locked, path, "BEGIN IMMEDIATE"))
        waiting = asyncio.create_task(session.change(SNIPPETS.insert.format(table=table), "a", "1"))
        while not session.connection._job or not session.connection._job.is_running:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        began = clock.monotonic()
        session.connection.cancel()
        await fails(TransientFailure, waiting)
        assert clock.monotonic() - began < 0.5
        await asyncio.to_thread(lock[0].let_go)
        assert await session.rows(f"SELECT * FROM {table}") == []


async def test_a_transaction_that_gets_no_lock_has_done_nothing(
    database: Database, path: Path, lock: list[Locked]
) -> None:
    async with database.connected() as session:
        table = await session.table(SNIPPETS)
        insert = SNIPPETS.insert.format(table=table)
        lock.append(await asyncio.to_thread(Locked, path, "BEGIN IMMEDIATE"))
        await session.connection.begin()
        assert await session.rows(f"SELECT * FROM {table}") == []  # no lock is needed before the first write
        await fails(TransientFailure, session.json(insert, "a", "1", within_s=0.1))
        await asyncio.to_thread(lock[0].let_go)
        await session.connection.rollback()
        assert await session.change(insert, "b", "1") == (1, 1)


async def test_a_file_that_cannot_become_a_wal_now_is_used_as_it_is(
    database: Database, path: Path, lock: list[Locked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "WAL_WITHIN_S", 0.05)
    foreign(path, "CREATE TABLE a (b)", "INSERT INTO a VALUES (1)")
    lock.append(await asyncio.to_thread(Locked, path, "BEGIN IMMEDIATE"))
    async with database.connected() as session:
        assert await session.value("SELECT b FROM a") == 1
        waiting = asyncio.create_task(session.change("UPDATE a SET b = 2"))
        await asyncio.to_thread(lock[0].let_go)
        assert await waiting == (0, 1)
        assert await session.value("SELECT b FROM a") == 2


async def test_a_full_database_fails_as_transient(database: Database) -> None:
    async with database.connected() as session:
        table = await session.table(SNIPPETS)
        await session.ddl("PRAGMA max_page_count = 10")
        await fails(TransientFailure, session.change(f"INSERT INTO {table} (data) VALUES (zeroblob(1000000))"))
        assert await session.change(f"INSERT INTO {table} (name) VALUES ('small')") == (1, 1)


def test_the_backend_needs_a_resolved_connection() -> None:
    with pytest.raises(AssertionError, match="not resolved"):
        SqliteBackend(sqlite("/a").connection.__class__("default", "sqlite", "/a"), None)  # type: ignore[arg-type]
