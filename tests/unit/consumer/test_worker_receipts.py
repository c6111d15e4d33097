"""A stream that keeps the order of outputs and hears of them later, as Kafka's: lanes go on meanwhile, and in order."""

from __future__ import annotations

import asyncio

import pytest

from atmo_farm.errors import PublishError
from atmo_farm.ipc.arena import Field
from atmo_farm.streams.base import Output, Receipt
from tests.unit.consumer.test_worker import World, echo, on_loop, world

FOR_NOW = PublishError("no leader", transient=True)
NEVER = PublishError("too large", transient=False)


class Sent:
    """Outputs that the stream has taken, each until the test says what became of it."""

    def __init__(self, made: World) -> None:
        self.order: list[bytes] = []
        self._receipts: dict[bytes, Receipt] = {}
        self._changed = asyncio.Event()
        made.attempts._send = self._publish

    def _publish(self, output: Output) -> Receipt:
        receipt = self._receipts[output.data] = Receipt()
        self.order.append(output.data)
        self._changed.set()
        return receipt

    def tell(self, data: bytes, error: PublishError | None = None) -> None:
        self._receipts.pop(data).tell(error)

    async def until(self, *order: bytes) -> None:
        """These and no others, all sent."""
        while len(self.order) < len(order):
            self._changed.clear()
            await self._changed.wait()
        assert self.order == list(order)


@on_loop
async def test_a_lane_goes_on_before_its_outputs_are_safe() -> None:
    """In order, up to maxInFlight; each is acknowledged when its own output is."""
    async with world(echo, ordering="partition", redelivers=False, max_in_flight=3) as made:
        sent = Sent(made)
        made.publish(b"1", b"2", b"3", b"4")
        await made.consume()
        await sent.until(b"1", b"2", b"3")
        assert made.slot[Field.IN_FLIGHT] == 3 and not made.told.all
        sent.tell(b"2")
        await sent.until(b"1", b"2", b"3", b"4")
        sent.tell(b"1")
        assert made.told.all == [("ack", b"2"), ("ack", b"1")]
        assert made.slot[Field.PUBLISHED] == made.slot[Field.OK] == 2


@on_loop
async def test_outputs_that_fail_for_now_are_sent_again_in_order() -> None:
    """Each before those that have not begun, and none beside another."""
    async with world(echo, ordering="partition", redelivers=False) as made:
        sent = Sent(made)
        made.publish(b"1", b"2", b"3")
        await made.consume()
        await sent.until(b"1", b"2", b"3")
        sent.tell(b"3", FOR_NOW)
        made.publish(b"4")
        sent.tell(b"1", FOR_NOW)
        sent.tell(b"2")
        await sent.until(b"1", b"2", b"3", b"1")
        sent.tell(b"1", FOR_NOW)
        await sent.until(b"1", b"2", b"3", b"1", b"1")
        sent.tell(b"1")
        await sent.until(b"1", b"2", b"3", b"1", b"1", b"3")
        sent.tell(b"3")
        await sent.until(b"1", b"2", b"3", b"1", b"1", b"3", b"4")
        sent.tell(b"4")
        assert made.told.all == [("ack", data) for data in (b"2", b"1", b"3", b"4")]
        assert made.slot[Field.RETRIED] == 3 and made.slot[Field.IN_FLIGHT] == 0


@pytest.mark.parametrize("ordering", ["partition", "none"])
def test_an_output_that_is_never_taken(ordering: str) -> None:
    """Its message's dead letter is, and the others go on."""

    @on_loop
    async def it() -> None:
        async with world(echo, ordering=ordering, redelivers=False) as made:
            sent = Sent(made)
            made.publish(b"1", b"2")
            await made.consume()
            await sent.until(b"1", b"2")
            sent.tell(b"1", NEVER)
            sent.tell(b"2")
            await made.told.settled(2)
            assert sorted(made.told.all) == [("ack", b"2"), ("buried", b"1"), ("terminate", b"1")]
            made.publish(b"3")
            await sent.until(b"1", b"2", b"3")
            sent.tell(b"3")

    it()


@on_loop
async def test_cut_off_while_outputs_are_on_their_way() -> None:
    """Nobody hears of them any more, and nothing is acknowledged."""
    async with world(echo, ordering="partition", redelivers=False) as made:
        sent = Sent(made)
        made.publish(b"1", b"2")
        await made.consume()
        await sent.until(b"1", b"2")
        assert await made.worker.cancel() == 2
        sent.tell(b"1")
        sent.tell(b"2", FOR_NOW)
        await asyncio.sleep(0)
        assert made.told.all == [] and made.slot[Field.CANCELLED] == 2 and made.slot[Field.IN_FLIGHT] == 0


@on_loop
async def test_a_receipt_can_be_awaited() -> None:
    """Before it is told and after."""
    for error in (None, NEVER):
        for before in (True, False):
            receipt = Receipt()
            if before:
                receipt.tell(error)
            else:
                asyncio.get_running_loop().call_soon(receipt.tell, error)
            try:
                await receipt
                raised = None
            except PublishError as found:
                raised = found
            assert raised is error
