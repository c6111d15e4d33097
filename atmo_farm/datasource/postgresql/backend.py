"""A PostgreSQL database as the pool sees it: what its connections share."""

from __future__ import annotations

import asyncio

import psycopg2
from psycopg2.extensions import QuotedString

from atmo_farm import clock
from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import Unreachable
from atmo_farm.datasource.postgresql.canceller import Canceller
from atmo_farm.datasource.postgresql.connection import PostgresConnection
from atmo_farm.datasource.postgresql.failures import failure, first_words
from atmo_farm.datasource.postgresql.link import Link, Lost, TooLong
from atmo_farm.datasource.postgresql.target import Place, Target, addresses, target
from atmo_farm.datasource.postgresql.values import ArrayCaster, register
from atmo_farm.datasource.postgresql.wording import Wording, wording
from atmo_farm.datasource.statement import Statement
from atmo_farm.directive.connections import DatabaseConnection

_UNDETERMINED = "42P18"
"""indeterminate_datatype: a parameter's type cannot be told. A literal in its place is a text, and then it can."""

_PREPARED = ("select", "insert", "update", "delete", "values", "with", "merge", "table", "(")

_STANDARD = "standard_conforming_strings"
"""What our tokenizer goes by, and psycopg2, which quotes for good by what it is at the beginning of a connection."""

_SMALL = 1 << 20
"""Bytes that answers to our own statements may have."""


class PostgresBackend:
    """`base.Backend`. `connection` has its references resolved; `application` is what the server calls us by."""

    def __init__(self, connection: DatabaseConnection, limits: Limits, application: str = "atmo-farm"):
        self._target: Target = target(connection, application)
        self.limits = limits
        self.statement_timeout_ms = self._target.statement_timeout_ms
        overhead = (1 << 17) + 16 * limits.rows
        self.longest_text = limits.bytes + limits.bytes // 64 + overhead
        """Bytes on the wire that cannot be fewer in JSON: of each row and column, and of TLS, only a little is lost."""
        self.longest_answer = limits.bytes + limits.bytes // 2 + overhead
        """The same when columns may be bytes: a byte is two digits on the wire, and one and a third in JSON."""
        self.writing: set[str] = set()
        """Names of queries that only read by their words, and have written."""
        self.unfit: set[str] = set()
        """Names, as Wording's, of queries that cannot be planned before their values are known."""
        self._wordings: dict[str, tuple[Statement, Wording]] = {}
        self.arrays: dict[int, ArrayCaster | None] = {}
        """Casters of this database's own array types; None for other types that users have made."""
        self._spare = Canceller(self.connect)
        self._checker: Link | None = None
        self._one_at_a_time = asyncio.Lock()

    def connection(self) -> PostgresConnection:
        """A new one, not yet open."""
        return PostgresConnection(self)

    def wording(self, statement: Statement) -> Wording:
        """Of a statement, made once."""
        found = self._wordings.get(statement.name)
        if found is None or found[0] is not statement:
            found = self._wordings[statement.name] = (statement, wording(statement, self.limits.rows))
        return found[1]

    async def connect(self) -> Link:
        """An open link to the first address that answers, all within the connect timeout; Unreachable."""
        deadline = clock.monotonic() + self._target.connect_timeout_s
        places = self._target.in_order()
        reasons: list[str] = []
        for at, place in enumerate(places):
            left = (deadline - clock.monotonic()) / (len(places) - at)
            try:
                async with asyncio.timeout(left):
                    return await self._connect(place, left)
            except Unreachable as error:
                reasons.append(str(error))
            except TimeoutError:
                reasons.append(self._target.told(place, "no answer within the connect timeout"))
        raise Unreachable("; ".join(dict.fromkeys(reasons)))

    async def cancel(self, pid: int) -> None:
        """As Canceller.cancel."""
        await self._spare.cancel(pid)

    async def check(self, statement: Statement) -> str:
        """The server's complaint about a query that it has prepared; what cannot be prepared is not checked."""
        text = statement.render(lambda slot: f"${slot.index + 1}")
        if not text.lstrip().lower().startswith(_PREPARED):
            return ""
        async with self._one_at_a_time:
            return await self._prepare(text, statement)

    async def close(self) -> None:
        """Close the spare connection."""
        self._spare.close()
        if self._checker is not None:
            self._checker.drop("closed")

    async def _prepare(self, text: str, statement: Statement) -> str:
        if self._checker is None or self._checker.is_lost():
            self._checker = await self.connect()
        link = self._checker
        try:
            async with asyncio.timeout(self._target.connect_timeout_s):
                await link.send(f"PREPARE atmo_check AS {text}", _SMALL)
                await link.send("DEALLOCATE atmo_check", _SMALL)
        except psycopg2.Error as error:
            return "" if error.pgcode == _UNDETERMINED else str(failure(error, statement))
        except (Lost, TooLong, TimeoutError, asyncio.CancelledError) as error:
            link.drop("no answer within the connect timeout")
            if isinstance(error, asyncio.CancelledError):
                raise
            raise Unreachable(link.lost) from None
        return ""

    async def _connect(self, place: Place, within_s: float) -> Link:
        """To one host, by all of its addresses."""
        try:
            found = await addresses(place)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "its name does not resolve"
            raise Unreachable(self._target.told(place, reason)) from None
        for address in found[:-1]:
            try:
                async with asyncio.timeout(within_s / len(found)):
                    return await self._open(place, address)
            except (Unreachable, TimeoutError):
                pass
        return await self._open(place, found[-1])

    async def _open(self, place: Place, address: str) -> Link:
        link = Link()
        where = {"host": place.host, "port": str(place.port), **({"hostaddr": address} if address else {})}
        try:
            parameters = {**where, **self._target.parameters}
            await link.open(parameters)
            if link.driver.info.parameter_status(_STANDARD) != "on":
                link.drop("its strings are not standard")
                await link.open({**parameters, "options": f"{parameters.get('options', '')} -c {_STANDARD}=on"})
            register(link.driver)
            told = await link.send(self._session(link), _SMALL)
            link.is_shared = told.fetchall()[0][0] != link.pid
        except psycopg2.Error as error:
            reason = str(failure(error, names=self._target.settings)) if error.pgcode else first_words(error)
            link.drop("one of its settings is refused")
            raise Unreachable(self._target.told(place, reason)) from None
        except (Lost, TooLong) as error:
            raise Unreachable(self._target.told(place, str(error))) from None
        except asyncio.CancelledError:
            link.drop("given up")
            raise
        return link

    def _session(self, link: Link) -> str:
        """What every session is told first; it answers whose it is."""
        settings = dict(self._target.settings)
        if link.driver.server_version >= 140000:
            settings = {"client_connection_check_interval": "1s", **settings}
        sets = [
            f"pg_catalog.set_config({_quoted(link, name)}, {_quoted(link, value)}, false)"
            for name, value in settings.items()
        ]
        return f"SELECT {', '.join(['pg_catalog.pg_backend_pid()', *sets])}"


def _quoted(link: Link, text: str) -> str:
    quoted = QuotedString(text)
    quoted.prepare(link.driver)
    return quoted.getquoted().decode()
