"""mysqlclient, and what is used of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from atmo_farm.errors import CannotStart

MISSING = (
    "a database of type mysql needs the package mysqlclient: pip install 'atmo-farm[mysql]' "
    "(it is built from source; that needs gcc, pkg-config and libmariadb-dev)"
)


class Result(Protocol):
    """`_mysql.result`."""

    def describe(self) -> Sequence[Sequence[Any]]:
        """Of each column: name, type, longest value here, most bytes of a value, …"""

    def fetch_row(self, maxrows: int) -> Sequence[Sequence[object]]:
        """The next rows; 0: all."""


class Handle(Protocol):
    """`_mysql.connection`. One thread at a time."""

    client_flag: int
    server_capabilities: int

    def query(self, query: bytes) -> None:
        """Send a statement and wait for its answer."""

    def send_query(self, query: bytes) -> None:
        """Send a statement."""

    def read_query_result(self) -> None:
        """Wait for the beginning of its answer."""

    def store_result(self) -> Result | None:
        """Read the whole answer; None when it has no rows."""

    def use_result(self) -> Result | None:
        """The answer, to be read row by row; None when it has no rows."""

    def discard_result(self) -> None:
        """Read an answer and forget it."""

    def next_result(self) -> int:
        """Wait for the beginning of the next answer; -1 when there is none."""

    def affected_rows(self) -> int:
        """Of the last statement."""

    def insert_id(self) -> int:
        """Of the last statement."""

    def string_literal(self, value: str | bytes) -> bytes:
        """In quotes, for this connection's character set and mode."""

    def thread_id(self) -> int:
        """The server's number of this connection."""

    def fileno(self) -> int:
        """The socket."""

    def error(self) -> str:
        """The text of the last error."""

    def close(self) -> None:
        """Say goodbye and close the socket."""


class Driver(Protocol):
    """`_mysql`."""

    Error: type[Exception]

    def connect(self, **arguments: Any) -> Handle:
        """Connect and log in."""


def load() -> Driver:
    """The driver; CannotStart when it is not installed."""
    try:
        from MySQLdb import _mysql
    except ImportError as error:
        raise CannotStart(MISSING) from error
    return cast(Driver, _mysql)
