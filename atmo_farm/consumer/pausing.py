"""Whether a consumer takes messages, as the master wants it: one change after the other, the last wish holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from atmo_farm import log
from atmo_farm.ipc.arena import Field
from atmo_farm.streams.base import Handle, Stream

logger = logging.getLogger("atmo_farm.consumer")


class Pausing:
    """Of one process. `paused`: how it begins; `failed` is told why it cannot take messages any more."""

    def __init__(self, slot: memoryview, handler: str, paused: bool, failed: Callable[[str], None]):
        self._slot = slot
        self._handler = handler
        self._wanted = paused
        self._failed = failed
        self._stream: Stream | None = None
        self._change: asyncio.Task[None] | None = None

    def want(self, paused: bool) -> None:
        """From now on; before `consume` it is only remembered."""
        self._wanted = paused
        if self._stream is not None:
            self._change = asyncio.get_running_loop().create_task(self._to(self._stream, paused, self._change))

    async def consume(self, stream: Stream, handle: Handle) -> None:
        """As `Stream.consume`, without a single message where it begins paused."""
        began = self._wanted
        if began:
            await stream.pause()
        await stream.consume(handle)
        self._note(stream, began)
        self._stream = stream
        if self._wanted is not began:
            self.want(self._wanted)

    async def stop(self) -> None:
        """The stream is to be stopped: change nothing any more."""
        self._stream = None
        await _end(self._change)

    async def _to(self, stream: Stream, paused: bool, before: asyncio.Task[None] | None) -> None:
        await _end(before)
        try:
            await (stream.pause() if paused else stream.resume())
        except Exception as error:
            logger.debug("not resumed", exc_info=error)
            self._failed(f"{type(error).__name__}: {error}")
        else:
            self._note(stream, paused)

    def _note(self, stream: Stream, paused: bool) -> None:
        self._slot[Field.PENDING] = stream.pending()  # before the other: together they say whether more will begin
        if self._slot[Field.PAUSED] != paused:
            self._slot[Field.PAUSED] = paused
            log.event(logger, logging.INFO, "paused" if paused else "resumed", handler=self._handler)


async def _end(change: asyncio.Task[None] | None) -> None:
    """An outage may keep it for as long as that lasts."""
    if change is not None and not change.done():
        change.cancel()
        await asyncio.wait((change,))
