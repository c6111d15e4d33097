"""SQLite on three threads for each database: one that writes, two that read. The loop never waits for a disk.

    loop                                   threads                        files
    SqliteConnection  ── only reads ────►  readers, two   ── SQLite ──►   app.db, app.db-wal
    (a light handle)  ── all else ──────►  writer, one    ── SQLite ──►
          │                  │
          │                  └─ its turn: one statement, or from a transaction's first write to its end      turns
          └─ deadline, cancel ─► Job.stop: sqlite3_interrupt, and again until it has ended                   workers

Readers see what is committed, and are never held up by the writer (WAL). A transaction begins, with BEGIN IMMEDIATE, at
its first write; before that its reads are like anybody's, and from then on it reads on the writer what it has written.
So it is never the victim of a conflict in its midst; but what it read before its first write may have changed by then.

Another process may hold the file's lock: a statement is tried again until its deadline. When SQLite says that a
statement was interrupted, or could not get a lock, nothing of it was done: such a failure is transient also for writes.

`:memory:` is one database of this process, gone with it. It has one connection, the writer's, for everything, so there
a transaction holds up all others.

Variables are text (or bytes, when they are no UTF-8). A column's type makes numbers of them; where there is no column,
as in `SELECT ? + 0` or `WHERE length(name) > ?`, write CAST(? AS INTEGER).
"""

from atmo_farm.datasource.sqlite.backend import SqliteBackend

__all__ = ["SqliteBackend"]
