"""JetStream: a durable pull consumer, shared by all workers and farms of its name.

A message is in hand from its arrival to its settlement, and so long the server hears that it is in progress; one that
comes again meanwhile is known by its number. The consumer is bound again after each outage, when it is gone, and when
nothing is heard of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from atmo_farm import log
from atmo_farm.directive.model import Handler, NatsConnection
from atmo_farm.errors import CannotStart, PublishError
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams.base import Handle, Message, Output, StreamEvents
from atmo_farm.streams.codec import NO_HEADERS, Codec
from atmo_farm.streams.jetstream_consumer import Bound, Consumer, NoJetStream, StreamMissing
from atmo_farm.streams.jetstream_message import Delivery
from atmo_farm.streams.jetstream_publish import Publisher
from atmo_farm.streams.jetstream_pull import Pull
from atmo_farm.streams.nats_dead import DeadStream
from atmo_farm.streams.nats_link import PING_INTERVAL_S, NatsLink
from atmo_farm.streams.nats_requests import Requests
from atmo_farm.streams.pending import Pending

logger = logging.getLogger("atmo_farm.streams")

MOST_PREFETCHED = 256
"""Messages that wait in the process for a place in flight; a quarter of `maxInFlight`, so a handler of long work and
few places takes none away from others."""

MOST_BYTES = 32 << 20
"""While so many bytes wait, no more are asked for."""

BIND_AGAIN_S = (0.2, 5.0)
"""The first and the longest pause between two attempts."""
JETSTREAM_PATIENCE_S = 5.0
"""A server that begins has no JetStream for a moment."""
LOOK_S = (0.05, 1.0)
"""The first and the longest pause between two looks at what others still have."""

_ACK, _TERM, _PROGRESS, _NAK = b"+ACK", b"+TERM", b"+WPI", b"-NAK"
_NANOSECONDS = 1_000_000_000
_NO_BOUND = 1 << 62

Received = tuple[bytes, Delivery, bytes, bytes]
"""Subject, delivery, header block, payload."""


class JetStreamStream:
    """`streams.base.Stream` for a handler with `jetstream`."""

    durable = redelivers = True

    def __init__(
        self,
        connection: NatsConnection,
        handler: Handler,
        *,
        whom: str,
        client_name: str,
        events: StreamEvents,
        ping_interval_s: float = PING_INTERVAL_S,
    ):
        assert handler.jetstream is not None
        self._handler = handler
        self._jetstream = handler.jetstream
        self._whom = whom
        self._link = NatsLink(connection, client_name, events, ping_interval_s)
        self._client = self._link.client
        self._codec = Codec(handler.envelope)
        requests = Requests(self._client)
        self._link.publish_refused.append(requests.refused)
        self._consumer = Consumer(requests, self._link.where, handler.name, handler.resource, self._jetstream)
        self._publisher = Publisher(self._link, requests, self._codec, handler.name, handler.output)
        self._dead = DeadStream(requests, handler.dead_letter) if handler.dead_letter else None
        prefetched = min(MOST_PREFETCHED, handler.max_in_flight // 4)
        self._window = handler.max_in_flight + prefetched
        self._pull = Pull(
            self._link, self._jetstream.durable, max(1, prefetched), self._room, self._receive, self._unbind
        )
        self._pending: Pending[Received] = Pending(self._message, self._never_dropped, _NO_BOUND, _NO_BOUND)
        self._in_hand: dict[int, Delivery] = {}
        """Stream sequence → the delivery that is to be settled."""
        self._held: list[Received] | None = None
        """What waits until all that comes before it is here; None: nothing has to."""
        self._ordered = handler.ordering != "none"
        self._created = ""
        self._unbound = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._progress: asyncio.TimerHandle | None = None
        self._refused = ""
        self._link.back.append(lambda: self._unbind(""))
        self._link.publish_refused.append(self._api_refused)

    async def open(self) -> None:
        """Connect, for as long as it takes."""
        await self._link.open()
        await self._publisher.open()

    async def consume(self, handle: Handle) -> None:
        """Bind the consumer and begin; CannotStart if that cannot be: the stream is missing, or the consumer serves
        something else."""
        self._pending.start(handle)
        self._say_progress()
        if self._handler.respond_to is not None:
            await self._find_output(self._handler.respond_to.resource)
        bound = await self._bind_first()
        if self._dead is not None:
            self._dead.start()
        self._keeper = asyncio.get_running_loop().create_task(self._keep_bound(bound), name="jetstream consumer")

    def publish(self, output: Output) -> Awaitable[None]:
        """Done when the stream that keeps the subject has acknowledged it, or the server has it where there is none."""
        return self._publisher.publish(output)

    def ack(self, message: Message) -> None:
        """Done with it."""
        self._settle(message, _ACK)

    def give_back(self, message: Message, delay_s: float) -> None:
        """The server delivers it again after so long."""
        delay = int(delay_s * _NANOSECONDS)
        self._settle(message, b'-NAK {"delay": %d}' % delay if delay > 0 else _NAK)

    def terminate(self, message: Message) -> None:
        """Never deliver it again."""
        self._settle(message, _TERM)

    async def bury(self, letter: Output) -> None:
        """Returns when a stream has acknowledged it."""
        if self._dead is None:
            raise PublishError("this handler keeps no dead letters", transient=False)
        await self._dead.bury(letter)

    async def answer_error(self, message: Message, code: int, text: str) -> None:
        """Nothing: a stream's message has no sender who waits."""

    async def stop(self) -> None:
        """Ask no more, take what is on the wire, give back at once what was not handed over."""
        self._stop_keeper()
        await self._pull.stop()
        self._give_back_unstarted()
        await self._pending.finish()

    async def close(self) -> None:
        """Send what was published and settled, as far as the broker takes it, and disconnect."""
        self._stop_keeper()
        if self._progress is not None:
            self._progress.cancel()
        await self._pull.stop()
        self._pending.abandon()
        if self._dead is not None:
            self._dead.stop()
        await self._link.close(None)
        self._publisher.close()

    def abandon(self) -> int:
        """Hand over nothing more; the server keeps it all."""
        self._give_back_unstarted()
        self._pending.abandon()
        return 0

    def pending(self) -> int:
        """Messages received and not yet handed over."""
        return len(self._pending) + len(self._held or ())

    async def _find_output(self, subject: str) -> None:
        try:
            await self._publisher.find(subject)
        except PublishError as error:  # the first output asks again
            log.event(logger, logging.WARNING, "output stream not known yet", subject=subject, reason=str(error))

    # Received and settled

    def _room(self) -> int:
        return self._window - len(self._in_hand) if self._pending.size < MOST_BYTES else 0

    def _receive(self, subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        try:
            delivery = Delivery(reply)
        except ValueError:
            log.event(logger, logging.WARNING, "not a message of JetStream", subject=subject.decode("utf-8", "replace"))
            return
        known = self._in_hand.get(delivery.sequence)
        if known is not None:
            known.reply = reply
            return
        self._in_hand[delivery.sequence] = delivery
        if block and wire_headers.is_for_another(block, self._whom):
            self._let_go(delivery, _ACK)
        elif self._held is not None:
            self._held.append((subject, delivery, block, data))
        else:
            self._pending.offer((subject, delivery, block, data), len(block) + len(data))

    def _message(self, received: Received) -> Message:
        subject, delivery, block, data = received
        headers = wire_headers.decode(block) if block else NO_HEADERS
        message = self._codec.message(subject.decode("utf-8", "replace"), "", headers, data, block, delivery.id)
        message.attempt = delivery.attempt
        message.number = delivery.number
        message.origin = delivery
        return message

    def _settle(self, message: Message, word: bytes) -> None:
        delivery = message.origin
        if isinstance(delivery, Delivery) and self._in_hand.get(delivery.sequence) is delivery:
            self._let_go(delivery, word)

    def _let_go(self, delivery: Delivery, word: bytes) -> None:
        del self._in_hand[delivery.sequence]
        self._client.send(b"PUB %b %d\r\n%b\r\n" % (delivery.reply, len(word), word))
        self._pull.more()

    def _give_back_unstarted(self) -> None:
        left = self._pending.withdraw()
        if self._held is not None:
            left += self._held
            self._held = []
        for _, delivery, _, _ in left:
            if self._in_hand.get(delivery.sequence) is delivery:
                self._let_go(delivery, _NAK)

    def _say_progress(self) -> None:
        """Of all that is in hand, three times in each ack wait."""
        if self._client.is_connected:
            for delivery in self._in_hand.values():
                self._client.send(b"PUB %b 4\r\n%b\r\n" % (delivery.reply, _PROGRESS))
        loop = asyncio.get_running_loop()
        self._progress = loop.call_later(self._jetstream.ack_wait_s / 3, self._say_progress)

    def _never_dropped(self, count: int) -> None:
        raise AssertionError(f"{count} messages dropped: what is asked for is bounded")

    # Bound to the consumer

    async def _bind_first(self) -> Bound:
        patience = asyncio.get_running_loop().time() + JETSTREAM_PATIENCE_S
        pause, longest = BIND_AGAIN_S
        while True:
            try:
                return await self._consumer.bind()
            except StreamMissing as error:
                raise CannotStart(f"{self._link.where}: handler {self._handler.name}: {error}") from error
            except NoJetStream as error:
                if asyncio.get_running_loop().time() > patience:
                    raise CannotStart(f"{self._link.where}: handler {self._handler.name}: {error}") from error
            except PublishError as error:
                if self._refused:
                    raise CannotStart(f"{self._link.where}: {self._refused}") from error
                self._link.waiting(str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _keep_bound(self, bound: Bound | None) -> None:
        """For ever: serve; when that is over, bind again."""
        while True:
            self._unbound.clear()
            serving = asyncio.ensure_future(self._serve(bound))
            unbound = asyncio.ensure_future(self._unbound.wait())
            try:
                await asyncio.wait((serving, unbound), return_when=asyncio.FIRST_COMPLETED)
                if serving.done():
                    serving.result()
                    await unbound
            except CannotStart as error:
                self._link.end(str(error))
                return
            finally:
                serving.cancel()
                unbound.cancel()
                await asyncio.wait((serving,))
            bound = None

    async def _serve(self, bound: Bound | None) -> None:
        """Returns when messages flow, bound to the consumer as it is now."""
        again = bound is None
        if bound is None:
            bound = await self._bind_again()
        if self._created and bound.created != self._created:
            self._forget_all(bound)
        self._created = bound.created
        if self._ordered:
            if self._held is None:
                self._held = []
            await self._until_alone(bound)
        await self._pull.start(bound)
        if again:
            self._link.connected()
        if self._ordered:
            await self._until_all_is_here()

    async def _bind_again(self) -> Bound:
        pause, longest = BIND_AGAIN_S
        while True:
            try:
                return await self._consumer.bind()
            except (StreamMissing, NoJetStream, PublishError) as error:
                if self._client.is_connected:
                    self._link.waiting(str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _until_alone(self, bound: Bound) -> None:
        """An order needs that nobody else asks: who came first goes on, and this one stands by."""
        pause, longest = LOOK_S
        told = False
        while bound.waiting:
            if not told:
                told = True
                text = "another process serves this ordered consumer: this one stands by"
                log.event(logger, logging.INFO, text, handler=self._handler.name)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            bound = await self._look() or bound

    async def _until_all_is_here(self) -> None:
        """Everything that somebody had and did not settle is in hand: hand over in the stream's order."""
        pause, longest = LOOK_S
        while True:
            bound = await self._look()
            if bound is not None and bound.unsettled <= len(self._in_hand):
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
        held, self._held = self._held or [], None
        held.sort(key=lambda received: received[1].sequence)
        for received in held:
            self._pending.offer(received, len(received[2]) + len(received[3]))

    async def _look(self) -> Bound | None:
        """The consumer now; None if that is not known."""
        try:
            return await self._consumer.look()
        except (StreamMissing, NoJetStream, PublishError):
            return None

    def _forget_all(self, bound: Bound) -> None:
        """Another consumer has its name, so what is in hand can no longer be settled."""
        self._pending.withdraw()
        self._in_hand.clear()
        self._held = None
        text = "the consumer was made anew: it begins where deliverPolicy says"
        log.event(logger, logging.WARNING, text, handler=self._handler.name, stream=bound.stream)

    def _unbind(self, reason: str) -> None:
        """Bind again; the reason is for the log, empty where it is told already."""
        if reason:
            log.event(logger, logging.WARNING, "consumer to be bound again", handler=self._handler.name, reason=reason)
        self._unbound.set()

    def _stop_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None

    def _api_refused(self, subject: str) -> None:
        if subject.startswith("$js.api."):
            self._refused = f"this user may not publish on {subject}, which a JetStream handler needs"
