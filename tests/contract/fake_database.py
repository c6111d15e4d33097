"""A database without a server: the test says how each statement ends, and whether connecting works.

What a statement does is its name: `quick` answers at once; `hold` waits for `let_go`; `wrong` is refused; `lost` loses
its connection; `deaf` waits, and does not even end when it is cancelled: its connection is broken then; `bug` raises
what no connection may raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from atmo_farm import clock
from atmo_farm.datasource.errors import CallFailed, OutcomeUnknown, TransientFailure, Unreachable
from atmo_farm.datasource.pool import Pool, PoolOptions
from atmo_farm.datasource.statement import Statement, Variable, prepare
from atmo_farm.directive.model import Query
from atmo_farm.ipc.frames import Op
from tests.contract.asking import Asked, Asker
from tests.streams import Watched

STATEMENTS = {
    name: prepare(Query(name, f"SELECT {name} ?", "select", 1, "default"), "postgresql")
    for name in ("quick", "hold", "wrong", "lost", "deaf", "bug")
}


QUERY, COMMIT, ROLLBACK = Op.QUERY, Op.COMMIT, Op.ROLLBACK


class FakeBackend(Watched):
    """`base.Backend`. `log` holds what was done, in order: `3 quick a` is connection 3's statement with variable a."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.connections: list[FakeConnection] = []
        self.down = ""
        """Why connecting fails; empty: it does not."""
        self.room = 1000
        """Connections that the server takes."""
        self.begin_fails = self.commit_is_unknown = self.slow_to_connect = False
        self.connecting = asyncio.Event()
        """While `slow_to_connect`: set it, and connecting goes on."""
        self.running = self.most = 0
        self.held: list[asyncio.Future[None]] = []
        self.is_closed = False

    def connection(self) -> FakeConnection:
        connection = FakeConnection(self, len(self.connections) + 1)
        self.connections.append(connection)
        return connection

    @property
    def open_connections(self) -> list[FakeConnection]:
        return [connection for connection in self.connections if connection.is_open]

    def note(self, text: str) -> None:
        self.log.append(text)
        self._changed.set()

    def let_go(self, count: int = 1000) -> None:
        """Let statements that hold end, the oldest first."""
        for future in self.held[:count]:
            if not future.done():
                future.set_result(None)
        del self.held[:count]

    def stop(self) -> None:
        """As a server that ends: idle connections are lost, and none can be made."""
        self.down = "Connection refused"
        for connection in self.open_connections:
            connection.lost = True

    async def check(self, statement: Statement) -> str:
        return f"checked {statement.name}"

    async def close(self) -> None:
        self.is_closed = True


class FakeConnection:
    """`base.Connection`."""

    def __init__(self, backend: FakeBackend, number: int):
        self.backend = backend
        self.number = number
        self.broken = self.is_open = self.lost = False
        self.cancelled = 0
        self._hold: asyncio.Future[None] | None = None
        self._is_deaf = False

    async def open(self) -> None:
        if self.backend.slow_to_connect:
            await self.backend.connecting.wait()
        await asyncio.sleep(0)
        if self.backend.down or len(self.backend.open_connections) >= self.backend.room:
            raise Unreachable(self.backend.down or "sorry, too many clients already")
        self.is_open = True
        self.backend.note(f"{self.number} open")

    def is_lost(self) -> bool:
        return self.lost

    async def run(self, statement: Statement, variables: Sequence[Variable], comment: str, deadline: float) -> bytes:
        assert self.is_open and self._hold is None, "two things at once"
        if self.lost:
            self.broken = True
            raise TransientFailure("it was lost")
        self.backend.note(f"{self.number} {statement.name} {variables[0]!s}")
        self.backend.running += 1
        self.backend.most = max(self.backend.most, self.backend.running)
        try:
            return await self._run(statement.name, variables, deadline)
        finally:
            self.backend.running -= 1
            self._hold = None

    async def _run(self, name: str, variables: Sequence[Variable], deadline: float) -> bytes:
        if name in ("hold", "deaf"):
            self._is_deaf = name == "deaf"
            self._hold = asyncio.get_running_loop().create_future()
            self.backend.held.append(self._hold)
            try:
                async with asyncio.timeout(max(0.0, deadline - clock.monotonic())):
                    await self._hold
            except TimeoutError:
                self.broken = self.broken or self._is_deaf
                raise TransientFailure("no answer" if self._is_deaf else "stopped at its deadline") from None
        elif name == "wrong":
            raise CallFailed("syntax error")
        elif name == "lost":
            self.broken = True
            raise TransientFailure("the connection was lost")
        elif name == "bug":
            raise ZeroDivisionError
        else:
            await asyncio.sleep(0)
        return f"{variables[0]!s}".encode()

    async def begin(self) -> None:
        await asyncio.sleep(0)
        if self.backend.begin_fails:
            self.broken = True
            raise TransientFailure("it was lost")
        self.backend.note(f"{self.number} BEGIN")

    async def commit(self, deadline: float) -> None:
        self.backend.note(f"{self.number} COMMIT")
        await asyncio.sleep(0)
        if self.backend.commit_is_unknown:
            self.broken = True
            raise OutcomeUnknown("no answer to COMMIT")

    async def rollback(self) -> None:
        await asyncio.sleep(0)
        self.backend.note(f"{self.number} ROLLBACK")

    def cancel(self) -> None:
        self.cancelled += 1
        if self._hold is not None and not self._hold.done():
            self.broken = self.broken or self._is_deaf
            self._hold.set_exception(TransientFailure("no answer" if self._is_deaf else "cancelled"))

    async def ping(self) -> None:
        if self.lost:
            raise Unreachable("it was lost")

    def close(self) -> None:
        self.broken = True
        if self.is_open:
            self.is_open = False
            self.backend.note(f"{self.number} close")


def pool_of(backend: FakeBackend, **options: object) -> Pool:
    """A pool on it; `options` are those of PoolOptions."""
    return Pool("database default", backend, STATEMENTS, PoolOptions(**options))  # type: ignore[arg-type]


class Client(Asker):
    """An Asker with short ways to ask a database."""

    def query(self, name: str, variable: str = "x", within_s: float = 30.0) -> Asked:
        """A query outside of transactions."""
        return self.ask(QUERY, name, [variable.encode()], 0, False, within_s=within_s)

    def begin(self, number: int, name: str = "quick", variable: str = "x", within_s: float = 30.0) -> Asked:
        """The first query of a transaction."""
        return self.ask(QUERY, name, [variable.encode()], number, True, within_s=within_s)

    def within(self, number: int, name: str = "quick", variable: str = "x") -> Asked:
        """A further query of it."""
        return self.ask(QUERY, name, [variable.encode()], number, False)

    def commit(self, number: int) -> Asked:
        return self.ask(COMMIT, "default", number)

    def rollback(self, number: int) -> Asked:
        return self.ask(ROLLBACK, "default", number)
