"""A select of one row through guest, proxy and server, 64 in flight.

Against the drivers alone: one blocking connection, and as many asynchronous ones as the proxy has. PostgreSQL and
MariaDB, each with its own checks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg2
import uvloop

from atmo_farm.directive import load
from atmo_farm.settings import HandlerDefaults
from benchmarks import proxy
from benchmarks.baselines import sql_selects
from benchmarks.report import Check, Report, median
from tests.servers.mariadb import DATABASE, MariaDbServer
from tests.servers.postgresql import PostgresServer

IN_FLIGHT = 64
CONNECTIONS = 8
CALLS = 6_400
"""Of one round and side."""
ROWS = 1000
TABLE = "CREATE TABLE goods (id integer PRIMARY KEY, name varchar(40), price integer)"
FILL = f"INSERT INTO goods VALUES {', '.join(f'({n}, {chr(39)}good {n}{chr(39)}, {n})' for n in range(ROWS))}"


def run(options: argparse.Namespace) -> Report:
    """Both servers, one after the other."""
    report = Report("sql", unit="selects/s", header=("", "selects/s"), floor=1.2)
    rounds = options.rounds or 7
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = PostgresServer()
        server.start()
        stack.callback(server.remove)
        url = server.url()
        with contextlib.closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(TABLE)
            cursor.execute(FILL)
        rate = _side(folder / "postgresql", "postgresql", url, _Postgres(url), rounds)
        _tell(report, "PostgreSQL", rate, 1.2)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mariadb = MariaDbServer()
        mariadb.start()
        stack.callback(mariadb.remove)
        import MySQLdb

        access = {"host": "127.0.0.1", "port": mariadb.port, "user": "trusted", "database": DATABASE}
        with contextlib.closing(MySQLdb.connect(**access)) as connection, connection.cursor() as cursor:
            cursor.execute(TABLE)
            cursor.execute(FILL)
            connection.commit()
        rate = _side(folder / "mysql", "mysql", mariadb.dsn(), _MySql(access), rounds)
        _tell(report, "MariaDB", rate, 1.0)
    return report


class _Postgres:
    """The baselines' connections to PostgreSQL."""

    def __init__(self, url: str):
        self._url = url

    def blocking(self) -> Any:
        """One that blocks."""
        return sql_selects.BlockingPostgres(self._url)

    def waiting(self) -> Any:
        """One on the running loop."""
        return sql_selects.AsyncPostgres(self._url)


class _MySql:
    """The baselines' connections to MariaDB."""

    def __init__(self, access: dict[str, Any]):
        self._access = access

    def blocking(self) -> Any:
        """One that blocks."""
        return sql_selects.BlockingMySql(**self._access)

    def waiting(self) -> Any:
        """One on the running loop."""
        return sql_selects.AsyncMySql(**self._access)


def _side(folder: Path, kind: str, access: str, baselines: Any, rounds: int) -> dict[str, list[float]]:
    folder.mkdir()
    query = "SELECT id, name, price FROM goods WHERE id = ?"
    text = (
        f"connections:\n  database: {{type: {kind}, connectionString: {json.dumps(access)}, poolSize: {CONNECTIONS}}}\n"
        f"queries:\n  - {{name: one, query: {json.dumps(query)}}}\n"
    )
    app = proxy.application(folder / "app", text)
    with proxy.running(app, folder / "data.sock"):
        return uvloop.run(_measure(app, folder / "data.sock", baselines, rounds))


async def _measure(app: Path, socket: Path, baselines: Any, rounds: int) -> dict[str, list[float]]:
    directive = load(app, HandlerDefaults()).directive
    blocking = baselines.blocking()
    connections = [baselines.waiting() for _ in range(CONNECTIONS)]
    for connection in connections:
        await connection.open()
    async with proxy.guests(proxy.QUERY_GUEST, directive, socket, IN_FLIGHT) as guests:

        async def ours() -> None:
            async def ask(first: int) -> None:
                for number in range(CALLS // IN_FLIGHT):
                    row = (first * 31 + number) % ROWS
                    answer = await guests.call(b"%d" % row)
                    assert answer == b'[{"id":%d,"name":"good %d","price":%d}]' % (row, row, row), answer

            await asyncio.gather(*map(ask, range(IN_FLIGHT)))

        async def one_blocking() -> None:
            for number in range(CALLS // 2):
                assert len(blocking.select(number % ROWS)) == 1

        async def waiting() -> None:
            async def ask(connection: Any) -> None:
                for number in range(CALLS // CONNECTIONS):
                    assert len(await connection.select(number % ROWS)) == 1

            await asyncio.gather(*map(ask, connections))

        sides: dict[str, tuple[Callable[[], Awaitable[None]], int]] = {
            "atmo-farm": (ours, CALLS),
            "one blocking connection": (one_blocking, CALLS // 2),
            f"{CONNECTIONS} asynchronous connections": (waiting, CALLS),
        }
        while True:  # until the proxy has connected
            try:
                await guests.call(b"1")
                break
            except Exception:
                await asyncio.sleep(0.1)
        rate: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds + 1):
            for name, (side, calls) in sides.items():
                began = time.perf_counter()
                await side()
                if number:
                    rate[name].append(calls / (time.perf_counter() - began))
    for connection in connections:
        connection.close()
    return rate


def _tell(report: Report, server: str, rate: dict[str, list[float]], bound: float) -> None:
    ours, blocking, waiting = rate.values()
    report.rows += [(f"{server}: {name}", f"{median(values):,.0f}") for name, values in rate.items()]
    report.series |= {f"{server}: {name}": values for name, values in rate.items()}
    against_blocking = median([a / b for a, b in zip(ours, blocking, strict=True)])
    against_waiting = median([a / b for a, b in zip(ours, waiting, strict=True)])
    report.ratio = against_blocking if report.ratio is None else report.ratio
    report.checks += [
        Check(f"{server}: of one blocking connection's rate", against_blocking, ">=", bound),
        Check(f"{server}: of {CONNECTIONS} asynchronous connections' rate", against_waiting, ">=", 0.5),
    ]
