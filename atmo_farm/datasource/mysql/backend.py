"""A MySQL or MariaDB database as the pool sees it: what its connections share."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from atmo_farm.datasource.base import Limits
from atmo_farm.datasource.errors import TransientFailure, Unreachable
from atmo_farm.datasource.mysql.canceller import Canceller
from atmo_farm.datasource.mysql.connection import MySqlConnection
from atmo_farm.datasource.mysql.driver import Handle, load
from atmo_farm.datasource.mysql.failures import (
    NAMES_ONLY,
    NO_CONNECTION,
    SYNTAX,
    TLS_FAILED,
    DriverFailed,
    complaint,
    failure,
    number_of,
    refusal,
)
from atmo_farm.datasource.mysql.link import Link
from atmo_farm.datasource.mysql.reader import Names
from atmo_farm.datasource.mysql.session import Session, greet
from atmo_farm.datasource.mysql.target import target, whole_seconds
from atmo_farm.datasource.mysql.values import Template, converters, template
from atmo_farm.datasource.statement import Slot, Statement
from atmo_farm.datasource.threads import Threads
from atmo_farm.directive.connections import DatabaseConnection

POOL_SIZE = 8
SPARE_THREADS = 2
"""Beside one for each connection of the pool: for a probe and a check."""

ROW_SLACK = 64 << 10
"""A row takes no more bytes on the wire than as JSON, but for this much at most."""


class MySqlBackend:
    """`base.Backend`. `connection` has its references resolved; `application` is in the names of threads: the driver
    has no way to tell the server. CannotStart names what of the connection cannot be used, or the missing driver."""

    def __init__(self, connection: DatabaseConnection, limits: Limits, application: str = "atmo-farm"):
        self._driver = load()
        self._target = target(connection, limits.rows, limits.bytes + ROW_SLACK)
        self.limits = limits
        self._converters = converters(self._target.has_own_zone)
        size = connection.pool_size if isinstance(connection.pool_size, int) else POOL_SIZE
        name = f"{application} mysql {connection.name}"
        self._threads = Threads(size + SPARE_THREADS, name)
        self._canceller = Canceller(self._dial_control, self._driver.Error, name)
        self._options_fd = os.memfd_create("atmo-farm-mysql-options", os.MFD_CLOEXEC)
        os.write(self._options_fd, self._target.options_file)
        self._names: Names = {}
        self.reading: dict[tuple[str, ...], bool] = {}
        """Of names that statements call, as Template.calls: whether none of them is a function that may write."""
        self._templates: dict[str, tuple[Statement, Template]] = {}
        self._checker: Link | None = None
        self._turn = asyncio.Lock()
        self.connect_timeout_s = self._target.connect_timeout_s
        self.read_timeout_s = self._target.read_timeout_s

    def connection(self) -> MySqlConnection:
        """A new one, not yet open."""
        return MySqlConnection(self)

    def template(self, statement: Statement) -> Template:
        """Of a statement, made once."""
        found = self._templates.get(statement.name)
        if found is None or found[0] is not statement:
            found = self._templates[statement.name] = (statement, template(statement))
        return found[1]

    async def connect(self) -> Session:
        """An open link, all within the connect timeout; Unreachable."""
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                link = await self._link()
                try:
                    return await greet(link, self._target)
                except BaseException:
                    link.cut()
                    link.close()
                    raise
        except TimeoutError:
            raise Unreachable("no answer in time") from None
        except DriverFailed as error:
            reason = refusal(error)
        raise Unreachable(reason)

    async def cancel(self, session: Session, within_s: float) -> None:
        """As Canceller.cancel."""
        await self._canceller.cancel(session.link.thread_id, session.server, within_s)

    async def check(self, statement: Statement) -> str:
        """What its server says against a query that it is told to prepare."""
        async with self._turn:
            marked, _ = statement.positional()
            error = await self._prepare(marked)
            if error is not None and error.number == SYNTAX and statement.var_count:
                # There are places where a literal may stand and a mark may not, as behind DATE.
                error = await self._prepare(statement.render(_example))
                if error is not None and error.number not in (SYNTAX, *NAMES_ONLY):
                    return ""  # it is about the example
            return "" if error is None else complaint(error)

    async def close(self) -> None:
        """End the threads."""
        if self._checker is not None:
            self._checker.close()
        self._canceller.close()
        self._threads.close()
        os.close(self._options_fd)

    async def _link(self) -> Link:
        """Connected and logged in; one that comes too late is closed again."""
        dialling = self._threads.run(self._dial)
        try:
            handle = await asyncio.shield(dialling)
        except asyncio.CancelledError:
            dialling.add_done_callback(self._hang_up)
            raise
        return Link(handle, self._driver.Error, self._threads, self.limits, self._names)

    def _hang_up(self, dialling: asyncio.Future[Handle]) -> None:
        if dialling.exception() is None:
            self._threads.run(dialling.result().close)

    def _dial(self) -> Handle:
        return self._connect(self.connect_timeout_s, self._target.write_timeout_s)

    def _dial_control(self) -> Handle:
        return self._connect(1, 1, read_timeout=1)

    def _connect(self, connect_timeout_s: float, write_timeout_s: float, **changes: Any) -> Handle:
        """On a thread: it blocks. DriverFailed."""
        arguments: dict[str, Any] = {
            **self._target.arguments,
            "conv": self._converters,
            "read_default_file": f"/proc/self/fd/{self._options_fd}",
            "connect_timeout": whole_seconds(connect_timeout_s),
            "write_timeout": whole_seconds(write_timeout_s),
            **changes,
        }
        try:
            return self._driver.connect(**arguments)
        except self._driver.Error as error:
            number = number_of(error)
            # Only a text of the driver's own is looked at: a server's may be a null pointer.
            text = str(error.args[1]) if number == TLS_FAILED else ""
        if number in NO_CONNECTION:
            text = self._target.why_not(connect_timeout_s)
        if number == TLS_FAILED and self._target.tls == "preferred" and "ssl_mode" not in changes:
            return self._connect(connect_timeout_s, write_timeout_s, **changes, ssl_mode="DISABLED")
        raise DriverFailed(number, text)

    async def _prepare(self, text: str) -> DriverFailed | None:
        """The server's error."""
        if self._checker is None or self._checker.is_lost():
            if self._checker is not None:
                self._checker.close()
            self._checker = (await self.connect()).link
        link = self._checker
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                await link.send(b"PREPARE atmo FROM " + link.literal(text), False)
        except TimeoutError:
            link.cut()
            raise Unreachable("no answer in time") from None
        except DriverFailed as error:
            failed = error
        else:
            return None
        if isinstance(meaning := failure(failed, only_reads=True), TransientFailure):
            raise Unreachable(str(meaning))
        return failed


def _example(slot: Slot) -> str:
    return "1" if slot.is_count else "'1'"
