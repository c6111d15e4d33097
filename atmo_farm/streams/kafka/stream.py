"""Kafka as a stream: a member of a consumer group, and the producer of its outputs. Nothing is lost, see `Stream`.

A record is handed over, ends some time, and then may be committed with all before it: the broker never hears of single
records. So `ack` and `terminate` are the same here, and one that is given back is simply never ended by this process.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Literal

from atmo_farm.directive.connections import KafkaConnection
from atmo_farm.directive.model import DeadLetter
from atmo_farm.errors import AtmoFarmError, CannotStart, PublishError
from atmo_farm.streams.base import Handle, Message, Output, Receipt, StreamEvents
from atmo_farm.streams.codec import Codec
from atmo_farm.streams.kafka import drivers
from atmo_farm.streams.kafka.driver import BrokerRefused, Outgoing, Record, Refused, Result
from atmo_farm.streams.kafka.membership import Membership, Place
from atmo_farm.streams.kafka.options import options
from atmo_farm.streams.kafka.outbox import Outbox
from atmo_farm.streams.kafka.outbox_transactional import TransactionalOutbox
from atmo_farm.streams.kafka.owner import Owner
from atmo_farm.streams.kafka.partitions import Partitions
from atmo_farm.streams.kafka.pump import Pump
from atmo_farm.streams.kafka.records import origin_of, wire_headers

logger = logging.getLogger("atmo_farm.streams")


class KafkaStream:
    """`streams.base.Stream` for one handler."""

    durable = True
    redelivers = False

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        *,
        membership: Membership | None,
        client_id: str,
        events: StreamEvents,
        envelope: Literal["auto", "raw", "grav"] = "auto",
        max_in_flight: int = 256,
        ordered: bool = True,
        dead_letter: DeadLetter | None = None,
        whom: str = "",
        place: Place | None = None,
    ):
        """`membership`: None where it only publishes (`streams.base.Target`). `ordered`: messages of a partition wait
        for each other. `whom`: what was replayed for another one than `<identifier>.<handler>` is passed over. `place`:
        it is taken before it joins; in the end, when no other process wants it, the member is removed from its
        group."""
        given = options(connection, client_id)
        self._where = given.where
        self._topic = topic
        self._events = events
        self._codec = Codec(envelope)
        self._place = place
        transactional = membership is not None and bool(membership.transactional_id)
        # what has ended waits for its transaction, so for all before it: without shares, one partition had all places
        self._partitions = Partitions(max_in_flight, share=ordered or transactional)
        self._owner = Owner(drivers.choose(connection.driver), given, self, topic, membership, dead_letter)
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._member: asyncio.Future[None] = self._loop.create_future()
        self._outbox = (TransactionalOutbox if transactional else Outbox)(self._owner, self._partitions)
        self._pump = Pump(topic, self._codec, whom, self._partitions, self._outbox, self._owner, self._broken)
        self._joined = self._ended = False

    async def open(self) -> None:
        """Connect, for as long as it takes; CannotStart if there is no such topic."""
        self._owner.start()
        try:
            await self._opened
        except BaseException:
            await self.close()
            raise

    async def consume(self, handle: Handle) -> None:
        """Join the group and hand over; CannotStart if this is not allowed."""
        self._pump.start(handle)
        if self._place is not None:
            await self._place.take()
        self._owner.follow()
        await self._member

    async def pause(self) -> None:
        """Hold back what waits, and stay in the group: partitions are paused at the broker."""
        self._hold(True)

    async def resume(self) -> None:
        """Hand over what was held back, and go on."""
        self._hold(False)

    def publish(self, output: Output) -> Awaitable[None]:
        """Done when all replicas in sync have it."""
        return self._send(output, self._codec.payload(output))

    def ack(self, message: Message) -> None:
        """It may be committed when all before it may."""
        origin = origin_of(message)
        self._outbox.end(origin.partition, origin.record.offset)
        self._pump.wake()

    def give_back(self, message: Message, _delay_s: float) -> None:
        """It is not committed, so the group gets it again when this process has left."""
        origin = origin_of(message)
        self._outbox.give_up(origin.partition, origin.record.offset)

    def terminate(self, message: Message) -> None:
        """Nobody needs it any more."""
        self.ack(message)

    async def bury(self, letter: Output) -> None:
        """To the topic of dead letters, as it came."""
        await self._send(letter, letter.data)

    async def answer_error(self, message: Message, code: int, text: str) -> None:
        """Nothing: a record has no reply subject."""

    async def stop(self) -> None:
        """Hand over no more; what waits was never committed."""
        self._owner.drain()
        self._outbox.settle(self._partitions.clear())
        await self._pump.stop()

    def abandon(self) -> int:
        """Hand over nothing more; nothing is lost by it."""
        self._outbox.settle(self._partitions.clear())
        self._pump.cut()
        return 0

    async def close(self) -> None:
        """Write and commit what is left, and disconnect; a static member stays in its group for who wants its place."""
        in_group = self._joined and not self._ended
        self._ended = True
        self.abandon()
        self._outbox.tell()
        await self._owner.end(leave=in_group and self._place is not None and not self._place.is_wanted())

    async def lag(self) -> Mapping[int, int]:
        """Records of our partitions that were not received yet."""
        return await self._owner.lag()

    def pending(self) -> int:
        """Records received and not yet handed over."""
        return len(self._partitions)

    # `ears.Ears`

    def opened(self) -> None:
        """Connected."""
        if not self._opened.done():
            self._opened.set_result(None)

    def joined(self) -> None:
        """A member."""
        self._joined = True
        if not self._member.done():
            self._member.set_result(None)

    def assigned(self, partitions: Collection[int]) -> None:
        """Ours."""
        self._partitions.assigned(partitions)
        self._owner.flow(self._partitions.flow())

    def revoking(self, partitions: Collection[int], finished: threading.Event) -> None:
        """Ours for a moment more."""
        self._outbox.revoking(partitions, finished)
        self._outbox.settle(self._partitions.stop(partitions))

    def revoked(self, partitions: Collection[int]) -> None:
        """Not ours: what waits of them is dropped, what is in hand ends for nothing and comes again elsewhere."""
        self._outbox.settle(self._partitions.revoked(partitions))
        self._outbox.revoked(partitions)

    def records(self, polled: Mapping[int, Sequence[Record]]) -> None:
        """Of partitions that are ours."""
        if self._pump.is_ending:
            self._outbox.settle(sum(map(len, polled.values())))
            return
        for partition, records in polled.items():
            self._outbox.settle(self._partitions.add(partition, records))
        self._owner.flow(self._partitions.flow())
        self._pump.wake()

    def committed(self, offsets: Mapping[int, int]) -> None:
        """So much will not come again."""
        self._partitions.committed(offsets)
        self._pump.wake()

    def results(self, results: list[Result]) -> None:
        """Whoever waits for them goes on."""
        for record, error in results:
            record.token.tell(error)

    def transacted(self, offsets: Mapping[int, int], refused: list[Refused]) -> None:
        """So much will not come again, and its outputs are there; or some were refused."""
        self._partitions.committed(offsets)
        self._outbox.transacted(offsets, refused)
        self._pump.wake()

    def waiting(self, reason: str) -> None:
        """No broker, or no topic."""
        if not self._ended:
            self._events.waiting(self._where, reason)

    def connected(self) -> None:
        """There again."""
        if not self._ended:
            self._events.connected()

    def failed(self, error: AtmoFarmError) -> None:
        """This process cannot go on."""
        if self._ended:
            return
        boots = [future for future in (self._opened, self._member) if not future.done()]
        for future in boots:
            future.set_exception(CannotStart(f"{self._where}: {error}"))
            future.exception()  # nobody may wait for it
        if not boots:
            self._ended = True
            self._events.closed(str(error))

    def _send(self, output: Output, payload: bytes) -> Receipt:
        if self._ended:
            raise PublishError("the stream is closed", transient=True)
        receipt = Receipt()
        headers = wire_headers(output) if output.headers or output.original else []
        cause = None if output.cause is None else output.cause.origin
        self._outbox.send(Outgoing(output.subject, output.record_key, payload, headers, receipt, cause))
        return receipt

    def _hold(self, held: bool) -> None:
        self._partitions.held = held
        self._owner.flow(self._partitions.flow())
        self._pump.wake()

    def _broken(self, error: BaseException) -> None:
        logger.error("internal error", exc_info=error)
        self.failed(BrokerRefused(f"internal error: {type(error).__name__}"))
