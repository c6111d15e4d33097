"""What the consumer process writes into its arena slot beside the messages' counts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

import pytest

from atmo_farm import log
from atmo_farm.consumer.gauges import Gauges, waited
from atmo_farm.consumer.guest_log import HandlerGuestLog
from atmo_farm.directive.model import Handler
from atmo_farm.ipc import histogram
from atmo_farm.ipc.arena import Arena, Field
from atmo_farm.ipc.gauges import read_lag
from atmo_farm.ipc.histogram import Timed
from atmo_farm.streams.base import Stream

HANDLER = Handler(name="a", type="stream", source="nats", resource="a", steps=())


class Idle:
    """A stream on which nothing waits."""

    def __init__(self, lag: int = 0):
        self._lag = {0: lag}

    def pending(self) -> int:
        return 0

    async def lag(self) -> Mapping[int, int]:
        return self._lag


def gauges(slot: memoryview, stream: Idle | None = None) -> Gauges:
    return Gauges(slot, HANDLER, cast(Stream, stream or Idle()), (), HandlerGuestLog("a"))


def test_dropped_log_lines_are_counted_on_over_a_respawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like all counts of a slot: a process adds to what those before it have counted."""
    slot = Arena().slot(0)
    for dropped in (3, 4, 0):
        monkeypatch.setattr(log, "dropped", lambda count=dropped: count)
        process = gauges(slot)
        for _ in range(2):
            process.write()
    assert slot[Field.LOG_LINES_DROPPED] == 7


def test_progress_is_what_is_settled_or_tried_again() -> None:
    """Idle is who holds nothing; the broker's lag is asked for by itself."""

    async def main() -> None:
        slot = Arena().slot(0)
        process = gauges(slot, Idle(lag=5))
        process.start(lambda: None)
        assert slot[Field.PATIENCE_MS] == 65_000
        assert slot[Field.IDLE_NS] and slot[Field.NO_LAG_NS] and not slot[Field.PROGRESS_NS]
        while not read_lag(slot):
            await asyncio.sleep(0)
        assert read_lag(slot) == {0: 5}
        for field in (Field.IDLE_NS, Field.NO_LAG_NS):
            slot[field] = 1
        slot[Field.IN_FLIGHT] = 1
        process.write()
        assert (slot[Field.IDLE_NS], slot[Field.NO_LAG_NS], slot[Field.PROGRESS_NS]) == (1, 1, 0)
        for count in (Field.OK, Field.RETRIED, Field.FAILED):
            slot[count] += 1
            slot[Field.PROGRESS_NS] = 0
            process.write()
            assert slot[Field.PROGRESS_NS]

    asyncio.run(asyncio.wait_for(main(), 10))


def test_waits_of_guests_are_counted_by_what_they_wait_for() -> None:
    """What answers at once is none."""
    slot = Arena().slot(0)
    for name in ("cache_get", "cache_set", "db_exec", "fetch_url", "get_static_file"):
        waited(slot, name, 0.001)
    assert [sum(histogram.read([slot], timed).counts) for timed in Timed] == [0, 2, 1, 1]
    assert histogram.read([slot], Timed.CACHE).sum_s == pytest.approx(0.002)
