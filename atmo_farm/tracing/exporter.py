"""Sends the SDK's spans to a collector, from the process's own loop: the SDK's own exporters need a thread each.

Never in the way of a message, never more than a bounded queue: what the collector does not take in time is dropped and
counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from itertools import islice

import aiohttp
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from atmo_farm import log
from atmo_farm.tracing.collector import Collector

logger = logging.getLogger("atmo_farm.tracing")

MOST_WAITING = 2048
BATCH = 64
"""The loop stands while one is encoded: 3 to 5 ms."""
EVERY_S = 1.0
"""Between two batches, if they are not full."""
PATIENCE_S = 5.0
"""With one batch."""
AGAIN_S = (1.0, 30.0)
"""Delay before the second attempt to reach a collector that is away, and the longest; it doubles."""
AGAIN_ON = (429, 502, 503, 504)
"""Answers after which a batch may be sent once more."""


class Exporter(SpanProcessor):
    """Of one process; made on a running loop. `sent` and `dropped` are told how many spans."""

    def __init__(self, collector: Collector, sent: Callable[[int], None], dropped: Callable[[int], None]):
        self._collector = collector
        self._sent = sent
        self._dropped = dropped
        self._waiting: deque[ReadableSpan] = deque()
        self._full = asyncio.Event()
        self._away = False
        """The last batch is to be sent once more."""
        self._well = True
        """The last batch was taken, as far as it was told."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="traces")

    def on_end(self, span: ReadableSpan) -> None:
        """Send it with the next batch; while too many wait it is dropped."""
        waiting = self._waiting
        if len(waiting) >= MOST_WAITING:
            self._dropped(1)
            return
        waiting.append(span)
        if len(waiting) == BATCH:
            self._full.set()

    async def close(self, patience_s: float) -> None:
        """Send what waits, if that can be done in time; what is left is dropped."""
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._away:
            last = asyncio.ensure_future(self._flush())
            await asyncio.wait({last}, timeout=patience_s)
            last.cancel()
            await asyncio.wait({last})
        if self._waiting:
            self._dropped(len(self._waiting))
            self._waiting.clear()

    async def _run(self) -> None:
        shortest, longest = AGAIN_S
        async with self._session() as session:
            delay_s = shortest
            while True:
                if self._away:
                    await asyncio.sleep(delay_s)
                    delay_s = min(longest, 2 * delay_s)
                else:
                    delay_s = shortest
                    await self._batch()
                while self._waiting and await self._send(session):
                    pass

    async def _batch(self) -> None:
        """A moment, or a batch that is full."""
        try:
            await asyncio.wait_for(self._full.wait(), EVERY_S)
        except TimeoutError:
            pass
        self._full.clear()

    async def _flush(self) -> None:
        async with self._session() as session:
            while self._waiting and await self._send(session):
                pass

    def _session(self) -> aiohttp.ClientSession:
        headers = {**self._collector.headers, "Content-Type": "application/x-protobuf"}
        return aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=PATIENCE_S))

    async def _send(self, session: aiohttp.ClientSession) -> bool:
        """Whether the first batch is off the queue: taken, or refused for good."""
        spans = list(islice(self._waiting, BATCH))
        try:
            body = encode_spans(spans).SerializeToString()
            async with session.post(self._collector.url, data=body, allow_redirects=False) as answer:
                await answer.content.read(1 << 16)
                problem = "" if answer.status // 100 == 2 else f"it answered {answer.status}"
                again = answer.status in AGAIN_ON
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            problem, again = str(error) or type(error).__name__, True
        except ValueError as error:  # of the encoding: it would be the same once more
            problem, again = str(error), False
        self._tell(problem)
        self._away = again
        if again:
            return False
        for _ in spans:
            self._waiting.popleft()
        (self._dropped if problem else self._sent)(len(spans))
        return True

    def _tell(self, problem: str) -> None:
        """Once, when it changes."""
        if self._well == (not problem):
            return
        self._well = not problem
        if problem:
            text = "traces are not taken; what does not fit into the queue is dropped and counted"
            log.event(logger, logging.WARNING, text, collector=self._collector.url, reason=problem)
        else:
            log.event(logger, logging.INFO, "traces are taken again", collector=self._collector.url)
