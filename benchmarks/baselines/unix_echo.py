"""A bare Unix-socket echo: for each request frame of REQUEST bytes one reply frame of REPLY bytes, nothing looked at.

`python -m benchmarks.baselines.unix_echo PATH REQUEST REPLY` listens; `Client` asks.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import cast

import uvloop


class _Echo(asyncio.Protocol):
    def __init__(self, request: int, reply: int):
        self._request, self._reply, self._left = request, b"x" * reply, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        whole, self._left = divmod(self._left + len(data), self._request)
        self._transport.write(self._reply * whole)


class Client(asyncio.Protocol):
    """Requests that are answered in their order; those of one turn of the loop go out in one write."""

    def __init__(self, request: int, reply: int):
        self._frame, self._reply, self._left = b"x" * request, reply, 0
        self._answers: deque[asyncio.Future[None]] = deque()
        self._due = 0
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Replies."""
        whole, self._left = divmod(self._left + len(data), self._reply)
        for _ in range(whole):
            self._answers.popleft().set_result(None)

    def call(self) -> asyncio.Future[None]:
        """One request."""
        answer = self._loop.create_future()
        self._answers.append(answer)
        if not self._due:
            self._loop.call_soon(self._flush)
        self._due += 1
        return answer

    def _flush(self) -> None:
        self._transport.write(self._frame * self._due)
        self._due = 0


async def main(path: str, request: str, reply: str) -> None:
    """Serve until killed."""
    await asyncio.get_running_loop().create_unix_server(lambda: _Echo(int(request), int(reply)), path)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
