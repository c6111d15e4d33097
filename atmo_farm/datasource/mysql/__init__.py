"""MySQL and MariaDB by mysqlclient, whose calls block: what would wait is done on threads, the rest on the loop.

The life of a statement:

    Connection.run        variables become literals, quoted by the driver for this connection                    values
          │
          │               /* app handler=orders */ SELECT … WHERE name = 'O\\'Neill' LIMIT 10
          ▼
    Link.send             one message to the server; the loop watches the socket                                 link
          │
          ├─ readable ──► a small answer is read on the loop once it is whole, others on a thread                wire
          │               an answer over the caps: the connection is dropped
          ├─ deadline ──► KILL QUERY on the control connection                                              canceller
          │  or cancel    no end within 1 s: the connection is dropped
          ▼
    RowWriter             the rows as JSON                                                                       rows

How rows are capped. A `SELECT * FROM (…) LIMIT n` around the query would fail where two columns have one name or rows
are locked FOR UPDATE, and lose an ORDER BY. The session's `sql_select_limit` is this very limit: the server takes it
for a query whose outermost part has no LIMIT of its own, and for nothing else (not in views, procedures, INSERT with
SELECT). So the server never sends more than the cap and one row, which is proof enough, and the connection stays good.
Where the query's own LIMIT goes further, or a procedure selects, the rows are counted and weighed while they are read,
and the rest of them is cut off with the connection.

A statement whose answer is lost may be done: unless it only reads, or is in a transaction, its outcome is unknown. That
a select only reads is what its words say.
"""

from atmo_farm.datasource.mysql.backend import MySqlBackend

__all__ = ["MySqlBackend"]
