"""How long the loop stood still, at most."""

from __future__ import annotations

import asyncio

from atmo_farm import clock

BEAT_S = 0.002


class Heartbeat:
    """`async with Heartbeat() as heart`; `heart.longest_s` is the longest pause between two beats."""

    longest_s = 0.0
    beats = 0

    async def __aenter__(self) -> Heartbeat:
        self._task = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        self.longest_s = max(self.longest_s, clock.monotonic() - self._last)

    async def _beat(self) -> None:
        self._last = clock.monotonic()
        while True:
            await asyncio.sleep(BEAT_S)
            now = clock.monotonic()
            self.longest_s = max(self.longest_s, now - self._last)
            self._last = now
            self.beats += 1
