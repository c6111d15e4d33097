"""A steady load of a handler on JetStream, and its ledger (tests/ledger.py).

Input is kept by the stream IN, outputs on `out.>` by OUT, dead letters by ATMO_DEAD. Ids are numbers from
1, in the header `Id` and at the end of the payload.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from nats.js.errors import NotFoundError

from tests.ledger import Ledger
from tests.system.background import BackgroundLoad

OUT, DURABLE = "out.all", "work"
TRIES_AGAIN_S = 0.05
MOST_OFFERED = 256
"""Messages that are offered at once: what a broker that was away finds waiting must not drown it."""

ResultT = TypeVar("ResultT")


def with_client(url: str, do: Callable[[JetStreamContext], Awaitable[ResultT]]) -> ResultT:
    """What it returns, done with a connection of its own."""

    async def body() -> ResultT:
        client = await nats.connect(url)
        try:
            return await do(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(body())


def make_streams(url: str, subject: str) -> None:
    """IN for this subject, and OUT."""
    for name, kept in (("IN", subject), ("OUT", "out.>")):
        config = StreamConfig(name=name, subjects=[kept])
        with_client(url, lambda js, config=config: js.add_stream(config))  # type: ignore[misc]


class JetStreamLoad(BackgroundLoad):
    """`with JetStreamLoad(url, subject, per_s=300) as load:` publishes to the end of the block, or to `finish`: that
    waits until all is settled and fills the ledger.

    What the broker does not take is offered again, with the same `Nats-Msg-Id`. `data` makes a payload of an id.
    """

    def __init__(
        self,
        url: str,
        subject: str,
        per_s: float = 300,
        count: int = 1 << 30,
        data: Callable[[int], bytes] = lambda n: b"%d" % n,
    ):
        super().__init__(subject)
        self.worked_at: list[float] = []
        """time.monotonic() of each output that was sent."""
        self._url, self._subject, self._per_s, self._count, self._data = url, subject, per_s, count, data
        self._connected = threading.Event()

    def __enter__(self) -> Self:
        super().__enter__()
        assert self._connected.wait(10), "no connection"
        return self

    def finish(self, patience_s: float = 20.0) -> Ledger:
        """As ever."""
        return super().finish(patience_s)

    def wait_worked(self, count: int, patience_s: float = 20.0) -> None:
        """Until so many outputs were sent."""
        deadline = time.monotonic() + patience_s
        while len(self.worked_at) < count:
            assert time.monotonic() < deadline, f"{len(self.worked_at)} outputs after {patience_s} s"
            time.sleep(0.01)

    def resumed_after_s(self, moment: float, patience_s: float = 20.0) -> float:
        """Seconds from a moment to the next output."""
        deadline = time.monotonic() + patience_s
        while not self.worked_at or self.worked_at[-1] <= moment:
            assert time.monotonic() < deadline, f"no output in {patience_s} s"
            time.sleep(0.005)
        return next(at for at in self.worked_at if at > moment) - moment

    def _run(self) -> None:
        try:
            asyncio.run(self._publish_all())
        finally:
            self._connected.set()

    async def _publish_all(self) -> None:
        client = await nats.connect(self._url, max_reconnect_attempts=-1, reconnect_time_wait=0.05)
        await client.subscribe("out.>", cb=self._worked)
        await client.flush()
        self._connected.set()
        begin = time.monotonic()
        published: set[asyncio.Task[None]] = set()
        number = 0
        while not self._stop.is_set() and number < self._count:
            published = {task for task in published if not task.done()}
            due = int((time.monotonic() - begin) * self._per_s)
            while number < min(self._count, due) and len(published) < MOST_OFFERED:
                number += 1
                published.add(asyncio.ensure_future(self._publish(client, number)))
            await asyncio.sleep(0.004)
        await asyncio.gather(*published)
        while not self._stop.is_set():
            await asyncio.sleep(0.01)
        if self._patience_s:
            await self._settled(client)
            self.ledger.output.update([_id(one.data) for one in await _all(client, "OUT")])
            self.ledger.dead.update([(one.headers or {})["Id"] for one in await _all(client, "ATMO_DEAD")])
        await client.close()

    async def _publish(self, client: Client, number: int) -> None:
        name = str(number)
        self.ledger.offered.add(name)
        while True:
            try:
                headers = {"Id": name, "Nats-Msg-Id": name}
                await client.jetstream(timeout=1.0).publish(self._subject, self._data(number), headers=headers)
                self.ledger.published.add(name)
                return
            except (Error, TimeoutError, OSError):
                if self._stop.is_set() and not self._patience_s:
                    return
                await asyncio.sleep(TRIES_AGAIN_S)

    async def _worked(self, message: Msg) -> None:
        self.ledger.worked[_id(message.data)] += 1
        self.worked_at.append(time.monotonic())

    async def _settled(self, client: Client) -> None:
        deadline = time.monotonic() + self._patience_s
        while True:
            info = await client.jetstream().consumer_info("IN", DURABLE)
            self.ledger.unsettled = (info.num_pending or 0) + (info.num_ack_pending or 0)
            if self.ledger.unsettled == 0 or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.02)


async def _all(client: Client, stream: str) -> list[Msg]:
    """Everything that a stream keeps; nothing if there is none."""
    js = client.jetstream()
    try:
        count = (await js.stream_info(stream)).state.messages
    except NotFoundError:
        return []
    found: list[Msg] = []
    asking = await js.pull_subscribe("", stream=stream, config=ConsumerConfig(ack_policy=AckPolicy.NONE))
    while len(found) < count:
        found += await asking.fetch(min(500, count - len(found)))
    return found


def _id(payload: bytes) -> str:
    return payload.rpartition(b" ")[2].decode()
