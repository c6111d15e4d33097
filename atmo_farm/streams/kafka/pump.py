"""From what waits of a stream's partitions into its handler, one task for as long as the stream consumes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from atmo_farm import clock
from atmo_farm.streams.base import DONE, Handle
from atmo_farm.streams.codec import Codec
from atmo_farm.streams.kafka.outbox import Outbox
from atmo_farm.streams.kafka.owner import Owner
from atmo_farm.streams.kafka.partitions import Partitions
from atmo_farm.streams.kafka.records import is_for_another, message_of

TURN = 64
"""Messages handed over before the loop's other work gets its turn."""
TELL_S = 0.002
"""While messages are handed over, what the owner is to do is kept so long: flushes and commits cost by the piece."""


class Pump:
    """Of one stream."""

    def __init__(
        self,
        topic: str,
        codec: Codec,
        whom: str,
        partitions: Partitions,
        outbox: Outbox,
        owner: Owner,
        broken: Callable[[BaseException], None],
    ):
        """`whom`: what was replayed for another one is passed over. `broken`: a handler never raises; should it,
        nothing more would be handed over, and nobody would know."""
        self._topic = topic
        self._codec = codec
        self._whom = whom
        self._partitions = partitions
        self._outbox = outbox
        self._owner = owner
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._woken: asyncio.Future[None] | None = None
        self.is_ending = False
        """It hands over nothing more."""

    def start(self, handle: Handle) -> None:
        """Hand over to this, from now on."""
        self._task = self._loop.create_task(self._run(handle), name="kafka pump")
        self._task.add_done_callback(self._ended)

    def wake(self) -> None:
        """There may be something to hand over."""
        woken = self._woken
        if woken is not None:
            self._woken = None
            if not woken.done():
                woken.set_result(None)

    async def stop(self) -> None:
        """Hand over no more; returns when the handler has taken what it was given."""
        self.is_ending = True
        self.wake()
        if self._task is not None:
            await asyncio.wait((self._task,))

    def cut(self) -> None:
        """Hand over no more, now."""
        self.is_ending = True
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken(error)

    async def _run(self, handle: Handle) -> None:
        try:
            while True:
                await self._hand_over(handle)
                if self.is_ending:
                    return
                self._woken = self._loop.create_future()
                await self._woken
        finally:
            self._outbox.tell()

    async def _hand_over(self, handle: Handle) -> None:
        """What may be now. What the owner is to do in consequence is told in few pieces, and never held back while this
        waits: for a place in flight, which may be one that is freed by an acknowledgement."""
        take, outbox = self._partitions.take, self._outbox
        turn, told_at = TURN, clock.monotonic()
        outbox.hold()
        while not self.is_ending and (taken := take()) is not None:
            partition, record = taken
            if record.headers and is_for_another(record.headers, self._whom):
                outbox.end(partition, record.offset)
            else:
                began = handle(message_of(self._topic, partition, record, self._codec))
                if began is not DONE:
                    outbox.tell()
                    await began
                    outbox.hold()
            turn -= 1
            if not turn:
                turn = TURN
                self._owner.flow(self._partitions.flow())
                if clock.monotonic() - told_at > TELL_S:
                    outbox.tell()
                    outbox.hold()
                    told_at = clock.monotonic()
                await asyncio.sleep(0)
        self._owner.flow(self._partitions.flow())
        outbox.tell()
