"""JetStream's twin inside one process: messages are kept, and delivered until they are settled.

    MemoryBroker ── MemoryLog ── MemoryConsumer ── DurableMemoryStream, …
    passes on       keeps        hands out, waits  one of those that share a consumer

For tests of handlers and `atmo-farm test`: nothing outlives the process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Literal

import attrs

from atmo_farm.errors import PublishError
from atmo_farm.streams import subjects
from atmo_farm.streams.base import Handle, Message, Output
from atmo_farm.streams.codec import Codec
from atmo_farm.streams.headers import MESSAGE_ID, error_answer
from atmo_farm.streams.memory import Delivery, MemoryBroker, received, send


@attrs.define(eq=False)
class Kept:
    """One message of a log; `number` is its place, from 1."""

    number: int
    delivery: Delivery
    attempt: int = 0


class MemoryLog:
    """Keeps what is published on subjects that match, each `Nats-Msg-Id` once."""

    def __init__(self, broker: MemoryBroker, pattern: str):
        self.pattern = pattern
        self.messages: list[Delivery] = []
        self._ids: set[str] = set()
        self._consumers: list[MemoryConsumer] = []
        broker.kept.append(pattern)
        broker.subscribe(pattern, self._keep)

    def consumer(self, pattern: str, *, ack_wait_s: float = 30.0, max_out: int = 256) -> MemoryConsumer:
        """One for all streams that are to share it; it begins with the oldest message."""
        made = MemoryConsumer(self.pattern, pattern, ack_wait_s, max_out)
        self._consumers.append(made)
        for number, delivery in enumerate(self.messages, 1):
            made.offer(number, delivery)
        return made

    def _keep(self, delivery: Delivery) -> None:
        identity = {name.lower(): value for name, value in delivery.headers.items()}.get(MESSAGE_ID)
        if identity is not None:
            if identity in self._ids:
                return
            self._ids.add(identity)
        self.messages.append(delivery)
        for consumer in self._consumers:
            consumer.offer(len(self.messages), delivery)


class MemoryConsumer:
    """What its streams share: what waits, what is out and by whom, at most `max_out` of it."""

    def __init__(self, log: str, pattern: str, ack_wait_s: float, max_out: int):
        self.log = log
        self.ack_wait_s = ack_wait_s
        self.waiting: deque[Kept] = deque()
        self.out: dict[int, Kept] = {}
        self._pattern = pattern
        self._max_out = max_out
        self._changed = asyncio.Event()

    def offer(self, number: int, delivery: Delivery) -> None:
        """A new message of the log."""
        if subjects.matches(self._pattern, delivery.subject):
            self.waiting.append(Kept(number, delivery))
            self._changed.set()

    async def take(self) -> Kept:
        """The next one, whose attempt begins."""
        await asyncio.sleep(0)  # the others' turn
        while not self.waiting or len(self.out) >= self._max_out:
            self._changed.clear()
            await self._changed.wait()
        kept = self.waiting.popleft()
        kept.attempt += 1
        self.out[kept.number] = kept
        return kept

    def settle(self, number: int) -> None:
        """Never again."""
        self.out.pop(number, None)
        self._changed.set()

    def again_after(self, number: int, delay_s: float) -> None:
        """To whoever asks next, before what is new."""
        asyncio.get_running_loop().call_later(delay_s, self._again, number)

    def _again(self, number: int) -> None:
        kept = self.out.pop(number, None)
        if kept is not None:
            self.waiting.appendleft(kept)
            self._changed.set()


class DurableMemoryStream:
    """`streams.base.Stream` on a MemoryConsumer. What it has in hand counts as in progress until it is closed."""

    durable = redelivers = True

    def __init__(
        self, broker: MemoryBroker, consumer: MemoryConsumer, *, envelope: Literal["auto", "raw", "grav"] = "auto"
    ):
        self._broker = broker
        self._consumer = consumer
        self._codec = Codec(envelope)
        self._in_hand: set[int] = set()
        self._taking = False
        self._pump: asyncio.Task[None] | None = None
        self._ended = False
        self._handle: Handle | None = None
        self._paused = False

    async def open(self) -> None:
        """Nothing to connect to."""

    async def consume(self, handle: Handle) -> None:
        """Take and hand over."""
        self._handle = handle
        if not self._paused:
            await self.resume()

    async def pause(self) -> None:
        """Take nothing more; returns when the handler has taken what it was given."""
        self._paused = True
        await self._end_pump()

    async def resume(self) -> None:
        """Take again."""
        self._paused = False
        if self._handle is not None and (self._pump is None or self._pump.done()):
            self._pump = asyncio.get_running_loop().create_task(self._run(self._handle))

    async def publish(self, output: Output) -> None:
        """Pass it to the broker, which keeps it where it has a log for it."""
        send(self._broker, output.subject, _identified(output), self._codec.payload(output))

    def ack(self, message: Message) -> None:
        """Settle it."""
        if self._let_go(message):
            self._consumer.settle(message.number)

    def give_back(self, message: Message, delay_s: float) -> None:
        """Put it back after the delay; it counts as out meanwhile."""
        if self._let_go(message):
            self._consumer.again_after(message.number, delay_s)

    terminate = ack

    async def bury(self, letter: Output) -> None:
        """PublishError where no log keeps it."""
        if not any(subjects.matches(pattern, letter.subject) for pattern in self._broker.kept):
            raise PublishError(f"nobody keeps what is published on {letter.subject}", transient=False)
        send(self._broker, letter.subject, {**dict(letter.original), **_identified(letter)}, letter.data)

    async def answer_error(self, message: Message, code: int, text: str) -> None:
        """An empty message with the service error headers, if somebody waits for one."""
        if message.reply:
            send(self._broker, message.reply, error_answer(code, text), b"")

    async def stop(self) -> None:
        """Take nothing more; returns when the handler has taken what it was given."""
        self._ended = True
        await self._end_pump()

    def abandon(self) -> int:
        """Hand over nothing more; the consumer keeps it all."""
        self._ended = True
        if self._pump is not None:
            self._pump.cancel()
        return 0

    async def close(self) -> None:
        """What is unsettled comes again after the ack wait, as when its process dies."""
        self.abandon()
        for number in self._in_hand:
            self._consumer.again_after(number, self._consumer.ack_wait_s)
        self._in_hand.clear()

    async def lag(self) -> Mapping[int, int]:
        """Not known."""
        return {}

    def pending(self) -> int:
        """It takes nothing ahead."""
        return 0

    async def _run(self, handle: Handle) -> None:
        while not self._ended and not self._paused:
            self._taking = True
            kept = await self._consumer.take()
            self._taking = False
            self._in_hand.add(kept.number)
            await handle(self._message(kept))

    async def _end_pump(self) -> None:
        if self._pump is not None:
            if self._taking:
                self._pump.cancel()
            await asyncio.wait((self._pump,))

    def _message(self, kept: Kept) -> Message:
        delivery = kept.delivery
        message = self._codec.message(delivery.subject, delivery.reply, received(delivery), delivery.data)
        message.id = f"{self._consumer.log}.{kept.number}"
        message.number = kept.number
        message.attempt = kept.attempt
        return message

    def _let_go(self, message: Message) -> bool:
        if message.number not in self._in_hand:
            return False
        self._in_hand.remove(message.number)
        return True


def _identified(output: Output) -> Mapping[str, str]:
    headers = {**dict(output.original), **output.headers}
    return {**headers, "Nats-Msg-Id": output.id} if output.id else headers
