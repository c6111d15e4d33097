"""JetStream: a durable pull consumer, shared by all workers and farms of its name.

jetstream_binding.py    the tie to the consumer, over outages
jetstream_pull.py       asks it for messages
jetstream_hand.py       what was received and not settled
jetstream_publish.py    outputs, and jetstream_acks.py: when they are safe
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping

from atmo_farm import log
from atmo_farm.directive.connections import NatsConnection
from atmo_farm.directive.model import Handler
from atmo_farm.errors import PublishError
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams.base import Handle, Message, Output, StreamEvents
from atmo_farm.streams.codec import NO_HEADERS, Codec
from atmo_farm.streams.jetstream_binding import Binding
from atmo_farm.streams.jetstream_consumer import Consumer
from atmo_farm.streams.jetstream_hand import ACK, TERM, InHand
from atmo_farm.streams.jetstream_message import Delivery
from atmo_farm.streams.jetstream_publish import Publisher
from atmo_farm.streams.jetstream_pull import Pull
from atmo_farm.streams.nats_dead import DeadStream
from atmo_farm.streams.nats_link import PING_INTERVAL_S, NatsLink
from atmo_farm.streams.nats_requests import Requests
from atmo_farm.streams.pending import Pending

logger = logging.getLogger("atmo_farm.streams")

MOST_PREFETCHED = 256
"""Messages that wait in the process for a place in flight; at most a quarter of `maxInFlight`, so that a handler of
long work and few places takes none away from others."""

MOST_BYTES = 32 << 20
"""While so many bytes wait, no more are asked for."""

_NO_BOUND = 1 << 62

Received = tuple[bytes, Delivery, bytes, bytes]
"""Subject, delivery, header block, payload."""


class JetStreamStream:
    """`streams.base.Stream` for a handler with `jetstream`; `whom`: what was replayed for another one than
    `<identifier>.<handler>` is passed over."""

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
        jetstream = handler.jetstream
        assert jetstream is not None
        self._handler = handler
        self._whom = whom
        self._link = NatsLink(connection, client_name, events, ping_interval_s)
        self._client = self._link.client
        self._codec = Codec(handler.envelope)
        requests = Requests(self._client)
        self._link.publish_refused.append(requests.refused)
        ordered = handler.ordering != "none"
        self._publisher = Publisher(self._link, requests, self._codec, handler.name, handler.output, patient=ordered)
        self._dead = DeadStream(requests, handler.dead_letter) if handler.dead_letter else None
        if self._dead is not None:
            self._link.back.append(self._dead.look_again)
        prefetched = min(MOST_PREFETCHED, handler.max_in_flight // 4)
        self._window = handler.max_in_flight + prefetched
        self._pull = Pull(self._link, jetstream.durable, max(1, prefetched), self._room, self._receive, self._broken)
        self._in_hand = InHand(self._client, jetstream.ack_wait_s, self._pull.more)
        self._pending: Pending[Received] = Pending(self._message, self._never_dropped, _NO_BOUND, _NO_BOUND)
        self._held: list[Received] | None = None
        """What waits until all that comes before it is here; None: nothing has to."""
        consumer = Consumer(requests, self._link.where, handler, jetstream)
        self._binding = Binding(self._link, consumer, self._pull, self, handler.name, ordered=ordered)

    async def open(self) -> None:
        """Connect, for as long as it takes."""
        await self._link.open()
        await self._publisher.open()

    async def consume(self, handle: Handle) -> None:
        """Bind the consumer and begin; CannotStart if that cannot be: the stream is missing, or the consumer serves
        something else."""
        answer = self._handler.respond_to
        if answer is not None and (answer.source, answer.connection) == ("nats", self._handler.connection):
            await self._find_output(answer.resource)
        self._pending.start(handle)
        self._in_hand.say_progress()
        await self._binding.start()
        if self._dead is not None:
            self._dead.start()

    async def pause(self) -> None:
        """Ask no more; what was received is handed over, with an order it is given back."""
        await self._binding.pause()

    async def resume(self) -> None:
        """Ask again."""
        self._binding.resume()

    def publish(self, output: Output) -> Awaitable[None]:
        """Done when the stream that keeps the subject has acknowledged it, or the server has it where there is none."""
        return self._publisher.publish(output)

    def ack(self, message: Message) -> None:
        """Done with it."""
        self._in_hand.settle(message.origin, ACK)

    def give_back(self, message: Message, delay_s: float) -> None:
        """The server delivers it again after so long."""
        self._in_hand.give_back(message.origin, delay_s)

    def terminate(self, message: Message) -> None:
        """Never deliver it again."""
        self._in_hand.settle(message.origin, TERM)

    async def bury(self, letter: Output) -> None:
        """Returns when a stream has acknowledged it."""
        if self._dead is None:
            raise PublishError("this handler keeps no dead letters", transient=False)
        await self._dead.bury(letter)

    async def answer_error(self, message: Message, code: int, text: str) -> None:
        """Nothing: a stream's message has no sender who waits."""

    async def stop(self) -> None:
        """Ask no more, take what is on the wire, give back at once what was not handed over."""
        self._binding.stop()
        self._publisher.stop()
        await self._pull.stop()
        self.let_go()
        await self._pending.finish()

    async def close(self) -> None:
        """Send what was published and settled, as far as the broker takes it, and disconnect."""
        self._binding.stop()
        await self._pull.stop()
        self._pending.abandon()
        self._in_hand.close()
        if self._dead is not None:
            self._dead.stop()
        await self._link.close(None)
        self._publisher.close()

    def abandon(self) -> int:
        """Hand over nothing more; the server keeps it all."""
        self.let_go()
        self._pending.abandon()
        return 0

    async def lag(self) -> Mapping[int, int]:
        """The stream's messages that the consumer has not delivered yet, to whomever."""
        undelivered = await self._binding.undelivered()
        return {} if undelivered is None else {0: undelivered}

    def pending(self) -> int:
        """Messages received and not yet handed over."""
        return len(self._pending) + len(self._held or ())

    # jetstream_binding.Order

    def hold(self) -> None:
        """Keep what comes from now on."""
        if self._held is None:
            self._held = []

    def complete(self, unsettled: int, up_to: int) -> bool:
        """Whether all is here that is not settled: so many messages, up to this stream sequence."""
        return unsettled <= self._in_hand.count(up_to)

    def release(self) -> None:
        """Hand over what was kept, in the stream's order."""
        held, self._held = self._held or [], None
        held.sort(key=lambda received: received[1].sequence)
        for received in held:
            self._queue(received)

    def let_go(self) -> None:
        """Give back at once what was not handed over."""
        left = [*self._pending.withdraw(), *(self._held or ())]
        if self._held is not None:
            self._held = []
        for _, delivery, _, _ in left:
            self._in_hand.give_back(delivery, 0.0)

    def forget(self) -> None:
        """Nothing of what is here can be settled any more."""
        self._held = None
        self._pending.withdraw()
        self._in_hand.forget()

    def _room(self) -> int:
        return self._window - len(self._in_hand) if self._pending.size < MOST_BYTES else 0

    def _receive(self, subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        try:
            delivery = self._in_hand.take(reply)
        except ValueError:
            log.event(logger, logging.WARNING, "not a message of JetStream", subject=subject.decode("utf-8", "replace"))
            return
        if delivery is None:
            self._pull.more()  # it was asked for and takes no room
            return
        if block and wire_headers.is_for_another(block, self._whom):
            self._in_hand.settle(delivery, ACK)
        elif self._held is not None:
            self._held.append((subject, delivery, block, data))
        else:
            self._queue((subject, delivery, block, data))

    def _queue(self, received: Received) -> None:
        self._pending.offer(received, len(received[2]) + len(received[3]))

    def _message(self, received: Received) -> Message:
        subject, delivery, block, data = received
        headers = wire_headers.decode(block) if block else NO_HEADERS
        message = self._codec.message(subject.decode("utf-8", "replace"), "", headers, data, block, delivery.id)
        message.attempt = delivery.attempt
        message.number = delivery.number
        message.origin = delivery
        return message

    async def _find_output(self, subject: str) -> None:
        try:
            await self._publisher.find(subject)
        except PublishError as error:  # the first output asks again
            log.event(logger, logging.WARNING, "output stream not known yet", subject=subject, reason=str(error))

    def _broken(self, reason: str) -> None:
        self._binding.broken(reason)

    def _never_dropped(self, count: int) -> None:
        raise AssertionError(f"{count} messages dropped: what is asked for is bounded")
