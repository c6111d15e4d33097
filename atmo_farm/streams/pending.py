"""What a stream has received and not yet handed over: bounded, so that reading from the broker never has to pause."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from atmo_farm.streams.base import DONE, Handle, Message

MAX_MESSAGES = 65_536
MAX_BYTES = 64 << 20

TURN = 128
"""Messages handed over before the loop's other work (reading, timers, heartbeats) gets its turn."""

Received = TypeVar("Received")


class Pending(Generic[Received]):
    """A queue with one pump task, which makes each thing received a Message and awaits `handle` with it, in order.

    `build` is called at the hand-over, never for what is dropped. `dropped` is told, once for each `tell_drops`, how
    many found the queue full.
    """

    def __init__(
        self,
        build: Callable[[Received], Message],
        dropped: Callable[[int], None],
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
    ):
        self._build = build
        self._dropped = dropped
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._queue: deque[tuple[Received, int]] = deque()
        self._bytes = 0
        self._drops = 0
        self._ended = False
        self._handing = 0
        """1 while one is out of the queue and the handler has not taken it yet."""
        self._wake: asyncio.Future[None] | None = None
        self._pump: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, received: Received, size: int) -> None:
        """Queue it, or count it as dropped where it would exceed a bound. `size` is in bytes."""
        if len(self._queue) >= self._max_messages or (self._bytes and self._bytes + size > self._max_bytes):
            self._drops += 1
            return
        self._bytes += size
        self._queue.append((received, size))
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    def tell_drops(self) -> None:
        """Report what was dropped since the last call: to be called after a batch of offers."""
        if self._drops:
            drops, self._drops = self._drops, 0
            self._dropped(drops)

    def start(self, handle: Handle) -> None:
        """Begin to hand over."""
        self._pump = asyncio.get_running_loop().create_task(self._run(handle), name="stream pump")

    @property
    def size(self) -> int:
        """Bytes that are queued."""
        return self._bytes

    def withdraw(self) -> list[Received]:
        """Take out what is queued."""
        left = [received for received, _ in self._queue]
        self._queue.clear()
        self._bytes = 0
        return left

    async def finish(self) -> None:
        """Return when everything that is queued has been handed over; nothing is offered any more."""
        self._ended = True
        if self._pump is not None:
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)
            await asyncio.wait((self._pump,))

    def abandon(self) -> int:
        """Stop handing over at once; returns how many were received and not handed over, which are lost."""
        left = len(self._queue) + self._handing
        self._ended = True
        self._queue.clear()
        self._bytes = self._handing = 0
        if self._pump is not None:
            self._pump.cancel()
        return left

    async def _run(self, handle: Handle) -> None:
        loop = asyncio.get_running_loop()
        queue, build = self._queue, self._build
        while True:
            turn = TURN
            while queue:
                received, size = queue.popleft()
                self._bytes -= size
                self._handing = 1
                try:
                    taken = handle(build(received))
                    if taken is not DONE:
                        await taken
                except Exception as error:  # a handler never raises; should it, one message is lost and not the stream
                    loop.call_exception_handler(
                        {"message": "a message was lost between stream and handler", "exception": error}
                    )
                self._handing = 0
                turn -= 1
                if not turn:
                    turn = TURN
                    await asyncio.sleep(0)
            if self._ended:
                return
            self._wake = loop.create_future()
            await self._wake
