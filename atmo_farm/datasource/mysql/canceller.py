"""Stops statements of other connections, over a control connection with a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from atmo_farm import clock
from atmo_farm.datasource.errors import Unreachable
from atmo_farm.datasource.mysql.driver import Handle
from atmo_farm.datasource.mysql.failures import DriverFailed
from atmo_farm.datasource.threads import Threads

Server = tuple[object, ...]
"""What tells two servers behind one address apart: the values of SERVER."""

SERVER = "@@hostname AS host, @@port AS port, @@server_id AS server"


class Canceller:
    """`connect` gives a new open handle whose calls all end within a second or so. It stays, once it was needed."""

    def __init__(self, connect: Callable[[], Handle], error_type: type[Exception], name: str):
        self._connect = connect
        self._error_type = error_type
        self._threads = Threads(1, f"{name} control")
        self._handle: Handle | None = None

    async def cancel(self, thread_id: int, server: Server, within_s: float) -> None:
        """Tell the server to stop what a connection runs. When this returns it was told, and a statement that is sent
        there afterwards does not suffer. Unreachable when that is not certain."""
        if not await self._threads.run(partial(self._cancel, thread_id, server, clock.monotonic() + within_s)):
            raise Unreachable("the server could not be asked to stop a statement")

    def close(self) -> None:
        """Disconnect."""
        if self._handle is not None:
            self._threads.run(self._drop)
        self._threads.close()

    def _cancel(self, thread_id: int, server: Server, until: float) -> bool:
        for _ in range(2):  # the connection may have been lost while it was idle
            if clock.monotonic() >= until:
                return False
            is_new = self._handle is None
            try:
                if self._handle is None:
                    self._handle = self._connect()
                if is_new and _server(self._handle) != server:
                    break
                self._handle.query(b"KILL QUERY %d" % thread_id)
                return True
            except (self._error_type, DriverFailed):
                self._drop()
                if is_new:
                    return False
        self._drop()
        return False

    def _drop(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            try:
                handle.close()
            except self._error_type:
                pass


def _server(handle: Handle) -> Server:
    handle.query(f"SELECT {SERVER}".encode())
    rows = handle.store_result()
    return tuple(rows.fetch_row(1)[0]) if rows is not None else ()
