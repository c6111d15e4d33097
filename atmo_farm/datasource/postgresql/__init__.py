"""PostgreSQL by psycopg2's asynchronous mode, on the proxy's loop, without a thread.

The life of a statement that only reads:

    Connection.run        `?` and `$n` become literals in parentheses, quoted by psycopg2        values, wording
          │
          │               /* app handler=orders */ SET LOCAL transaction_read_only=on;
          │               SET statement_timeout=32768;
          │               SELECT … LIMIT 10001
          │               and, when the session has come to keep all that,                  session
          │               /* app handler=orders */ EXECUTE atmo_1_orders(('17'))
          ▼
    Link.send             one message to the server, one implicit transaction, one answer        link
          │
          ├─ readable ──► connection.poll() until it says that all of the answer is here
          │               an answer that must be longer than the cap: the connection is dropped
          ├─ deadline ──► SELECT pg_cancel_backend(pid) on the spare connection                  canceller
          │  or cancel    (what writes is ended by the server's own timer: 0.1 s later then)
          │               no end within 1 s: the connection is dropped
          ▼
    RowWriter             the rows, 500 at a time, as JSON                                       rows

A statement that may write goes as `SET LOCAL statement_timeout=…; <query>`; when its answer is lost, the outcome is
unknown. That a select only reads is what its words say; a function in it may write all the same. So the server is told
to let nothing write (transaction_read_only): if that is what it refuses with (25006), nothing was done, and the query
runs again as one that may write, now and later. In a transaction nothing is done before its COMMIT, and no guard is
needed.

No cursor: FETCH makes the server collect all rows before it sends the first one (3,000 rows of 1 MB: 2.8 GB of its disk
and 9 s before the cap was reached; with LIMIT nothing and 0.06 s).

psycopg2's own traps, and where they are avoided: `connection.cancel()` blocks with the GIL held (canceller); a server
process's end shows only when somebody polls (link); an error's text holds DETAIL lines and with them values, and that
of a failed connect may hold all of the connection string (failures, target).
"""

from atmo_farm.datasource.postgresql.backend import PostgresBackend

__all__ = ["PostgresBackend"]
