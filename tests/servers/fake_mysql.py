"""A MySQL server in the test's own loop that answers as it is told: in halves, not at all, or what MariaDB never sends.

It lets anybody in. What a backend asks by itself when it connects is answered; every other statement is the test's.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

_CAPABILITIES = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x20000 | 0x80000
"""Long passwords, a database at login, protocol 4.1, transactions, hashed passwords, several results, plugins."""

_AUTOCOMMIT = 2
UTF8MB4, BINARY = 45, 63
VARCHAR, LONGLONG, JSON = 253, 8, 245
ALL_OK = b"\0\0\0" + struct.pack("<HH", _AUTOCOMMIT, 0)

Answer = Callable[["FakeMySql", bytes], Awaitable[None]]
"""Answers one statement, by `FakeMySql.write`."""


class FakeMySql:
    """One connection of a client's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader = reader
        self.writer = writer

    async def read(self) -> bytes:
        """The payload of the next packet."""
        length = int.from_bytes((await self._reader.readexactly(4))[:3], "little")
        return await self._reader.readexactly(length)

    def write(self, data: bytes) -> None:
        """Bytes as they are; the client has them soon."""
        self.writer.write(data)

    async def serve(self, answer: Answer, plugin: str, logins: list[bytes]) -> None:
        """From the greeting on."""
        self.write(packets(0, _greeting()))
        logins.append(await self.read())
        if plugin:
            self.write(packets(2, b"\xfe" + plugin.encode() + b"\0"))
            logins.append(await self.read())
        self.write(packets(4 if plugin else 2, ALL_OK))
        while command := await self.read():
            statement = command[1:]
            if statement.startswith(b"SET "):
                self.write(packets(1, ALL_OK))
            elif b"@@sql_mode" in statement:
                self.write(rows(_SESSION, [_SESSION_VALUES]))
            elif command[0] == 1:  # the client leaves
                return
            else:
                await answer(self, statement)


@contextlib.asynccontextmanager
async def fake_mysql(answer: Answer, plugin: str = "", logins: list[bytes] | None = None) -> AsyncIterator[int]:
    """A server; its port. `plugin`: the way of logging in that it insists on; what clients sent goes into `logins`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await FakeMySql(reader, writer).serve(answer, plugin, [] if logins is None else logins)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def packets(first: int, *payloads: bytes) -> bytes:
    """Payloads in their frames, numbered from `first` on."""
    return b"".join(
        struct.pack("<I", len(payload))[:3] + bytes((number % 256,)) + payload
        for number, payload in enumerate(payloads, first)
    )


def rows(columns: Sequence[tuple[str, int, int]], values: Sequence[Sequence[bytes | None]], status: int = 2) -> bytes:
    """A whole answer: columns are (name, type, character set), a value of None is NULL."""
    end = b"\xfe" + struct.pack("<HH", 0, status)
    return packets(
        1,
        bytes((len(columns),)),
        *(_definition(*column) for column in columns),
        end,
        *(b"".join(_text(value) for value in row) for row in values),
        end,
    )


def ok(changed: int = 0, last_id: int = 0, status: int = 2) -> bytes:
    """A whole answer without rows."""
    return packets(1, b"\0" + _number(changed) + _number(last_id) + struct.pack("<HH", status, 0))


def error(number: int, text: bytes = b"refused") -> bytes:
    """A whole answer that is an error."""
    return packets(1, b"\xff" + struct.pack("<H", number) + b"#HY000" + text)


def _definition(name: str, type_: int, charset: int) -> bytes:
    names = b"".join(_text(text) for text in (b"def", b"", b"", b"", name.encode(), b""))
    return names + b"\x0c" + struct.pack("<HIBHB", charset, 1000, type_, 0, 0) + b"\0\0"


def _text(value: bytes | None) -> bytes:
    return b"\xfb" if value is None else _number(len(value)) + value


def _number(value: int) -> bytes:
    if value < 0xFB:
        return bytes((value,))
    if value < 1 << 16:
        return b"\xfc" + struct.pack("<H", value)
    return b"\xfd" + struct.pack("<I", value)[:3] if value < 1 << 24 else b"\xfe" + struct.pack("<Q", value)


def _greeting() -> bytes:
    low, high = _CAPABILITIES & 0xFFFF, _CAPABILITIES >> 16
    head = b"\x0a8.0.99-fake\0" + struct.pack("<I", 7) + b"saltsalt\0"
    middle = struct.pack("<HBHHB", low, UTF8MB4, _AUTOCOMMIT, high, 21) + bytes(10)
    return head + middle + b"saltsaltsalt\0" + b"mysql_native_password\0"


_SESSION = [
    *((name, VARCHAR, UTF8MB4) for name in ("client", "connection", "results")),
    ("autocommit", LONGLONG, BINARY),
    ("sql_mode", VARCHAR, UTF8MB4),
    ("packet", LONGLONG, BINARY),
    ("zone", VARCHAR, UTF8MB4),
    ("row_limit", LONGLONG, BINARY),
    ("name", VARCHAR, UTF8MB4),
    ("host", VARCHAR, UTF8MB4),
    ("port", LONGLONG, BINARY),
    ("server", LONGLONG, BINARY),
]
_SESSION_VALUES = [b"utf8mb4", b"utf8mb4", b"utf8mb4", b"1", b"", b"1000000", b"UTC", b"1", None, b"fake", b"1", b"1"]
