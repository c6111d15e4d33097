"""Farms whose functions use databases and the cache: their Directives, the databases themselves, and who asks."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import nats
from nats.aio.msg import Msg

from tests.farm import add_guest, nats_directive, write_app
from tests.servers.mariadb import MariaDbServer
from tests.servers.postgresql import PostgresServer

LANGUAGES = ("c", "assemblyscript", "rust", "rust-suborbital")
"""The languages of the guest `querying`; in an application of `write_data_app` it is called `querying-LANGUAGE`."""


class Refused(Exception):
    """The answer was an error: `code` and `text` as its headers have them."""

    def __init__(self, code: str, text: str):
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


@attrs.frozen
class Sql:
    """A database for tests: how a Directive names it, and a way to it that is not the farm's."""

    type: str
    connection_string: str
    connect: Callable[[], Any]

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run them, each in a transaction of its own; the rows of the last one."""
        connection = self.connect()
        try:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    @property
    def key(self) -> str:
        """Column type and words of a primary key that the database fills in."""
        return {
            "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
            "postgresql": "serial PRIMARY KEY",
            "mysql": "int PRIMARY KEY AUTO_INCREMENT",
        }[self.type]

    def yaml(self, more: str = "") -> str:
        """What stands under `database` (or a name under `databases`); `more`: further keys as a flow mapping's part."""
        return f"{{type: {self.type}, connectionString: {json.dumps(self.connection_string)}{more and ', ' + more}}}"


def sqlite(path: Path) -> Sql:
    """A database in this file, which need not be there yet."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, timeout=20)

    return Sql("sqlite", str(path), connect)


def postgresql(server: PostgresServer) -> Sql:
    """The server's database."""
    import psycopg2

    def connect() -> Any:
        connection = psycopg2.connect(server.url())
        connection.autocommit = True
        return connection

    return Sql("postgresql", server.url(), connect)


def mysql(server: MariaDbServer) -> Sql:
    """The server's database."""
    import MySQLdb

    def connect() -> Any:
        return MySQLdb.connect(unix_socket=str(server.socket), user="trusted", db="atmo", autocommit=True)

    return Sql("mysql", server.dsn(), connect)


def data_directive(
    url: str,
    *handlers: str,
    databases: Mapping[str, str] | None = None,
    redis: str = "",
    queries: Mapping[str, str] | None = None,
    more: str = "",
) -> str:
    """A Directive of stream handlers as `nats_directive` makes it, and its data: database name → YAML of the connection
    (`Sql.yaml`), the YAML of `redis`, query name → SQL (`NAME@DATABASE` for another database), more top-level keys."""
    directive = nats_directive(url, *handlers)
    connections = ""
    if databases:
        connections += "  databases:\n" + "".join(f"    {name}: {text}\n" for name, text in databases.items())
    if redis:
        connections += f"  redis: {redis}\n"
    directive = directive.replace("handlers:\n", f"{connections}handlers:\n", 1)
    if queries:
        directive += "queries:\n"
    for name, text in (queries or {}).items():
        name, _, database = name.partition("@")
        directive += f"  - name: {name}\n    query: {json.dumps(text)}\n"
        directive += f"    database: {database}\n" if database else ""
    return directive + textwrap.dedent(more)


def write_data_app(folder: Path, directive: str) -> Path:
    """A project folder with this Directive and the guests that use data."""
    write_app(folder, directive, ("c", "querying"), ("c", "caching"), ("c", "hello"))
    for language in LANGUAGES:
        add_guest(folder, language, "querying", f"querying-{language}")
        if language != "assemblyscript":
            add_guest(folder, language, "caching", f"caching-{language}")
    return folder


class Asker:
    """Sends requests to a farm by its broker, one at a time or many at once."""

    def __init__(self, url: str, within_s: float = 10.0):
        self._url = url
        self._within_s = within_s

    def __call__(self, subject: str, data: str | bytes) -> bytes:
        """The answer; Refused when it is an error."""
        return result(self.message(subject, data))

    def rows(self, subject: str, data: str | bytes) -> list[Any]:
        """The answer's lines, each parsed."""
        return [json.loads(line) for line in self(subject, data).splitlines()]

    def refusal(self, subject: str, data: str | bytes) -> tuple[str, str]:
        """Code and text of an answer that must be an error."""
        try:
            answer = self(subject, data)
        except Refused as error:
            return error.code, error.text
        raise AssertionError(f"this was answered: {answer!r}")

    def message(self, subject: str, data: str | bytes, headers: dict[str, str] | None = None) -> Msg:
        """The answer as it came."""

        async def main() -> Msg:
            client = await nats.connect(self._url)
            try:
                return await client.request(subject, _bytes(data), timeout=self._within_s, headers=headers)
            finally:
                await client.close()

        return asyncio.run(main())

    def together(self, *requests: tuple[str, str | bytes]) -> list[bytes | Refused]:
        """Send all at the same time; the answers in that order."""

        async def main() -> list[Msg]:
            client = await nats.connect(self._url)
            try:
                wanted = (client.request(subject, _bytes(data), timeout=self._within_s) for subject, data in requests)
                return await asyncio.gather(*wanted)
            finally:
                await client.close()

        answers: list[bytes | Refused] = []
        for message in asyncio.run(main()):
            try:
                answers.append(result(message))
            except Refused as error:
                answers.append(error)
        return answers


def result(message: Msg) -> bytes:
    """The data of an answer; Refused when it is an error."""
    code = (message.headers or {}).get("Nats-Service-Error-Code")
    if code is not None:
        raise Refused(code, (message.headers or {}).get("Nats-Service-Error", ""))
    return message.data


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data
