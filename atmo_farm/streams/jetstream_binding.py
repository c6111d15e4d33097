"""The tie to the consumer: bound at the start, and again after each outage, when it is gone or nothing is heard of it.

bind → (ordered: nobody else asks) → pull → (ordered: all that was unsettled is here) → …until something breaks

Two of an ordered handler that begin to ask at the same moment, as after a restart of the server, see each other then:
they let go, and look again at moments of their own.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol

from atmo_farm import log
from atmo_farm.errors import CannotStart, PublishError
from atmo_farm.streams.jetstream_consumer import Bound, Consumer, NoJetStream, StreamMissing
from atmo_farm.streams.jetstream_pull import Pull
from atmo_farm.streams.nats_link import NatsLink
from atmo_farm.streams.nats_requests import NotAllowedError

logger = logging.getLogger("atmo_farm.streams")

BIND_AGAIN_S = (0.2, 5.0)
"""The first and the longest pause between two attempts."""
JETSTREAM_PATIENCE_S = 5.0
"""A server that begins has no JetStream for a moment."""
STEADY_S = 5.0
"""What breaks sooner is bound again after a pause, which grows:"""
UNSTEADY_PAUSE_S = (0.1, 2.0)
LOOK_S = (0.05, 1.0)
"""The first and the longest pause between two looks at what others still have."""
LET_GO_S = 1.0
"""The longest pause of one that met another."""


class Order(Protocol):
    """Who hands over in the stream's order."""

    def hold(self) -> None:
        """Keep what comes from now on."""

    def complete(self, unsettled: int, up_to: int) -> bool:
        """Whether all is here that is not settled: so many messages, up to this stream sequence."""

    def release(self) -> None:
        """Hand over what was kept, sorted, and go on."""

    def let_go(self) -> None:
        """Give back what was kept, and go on keeping: another process asks, too."""

    def forget(self) -> None:
        """The consumer is another one: nothing of what is here can be settled."""


class Binding:
    """Of one stream; `ordered`: its handler has an order."""

    def __init__(self, link: NatsLink, consumer: Consumer, pull: Pull, order: Order, handler: str, *, ordered: bool):
        self._link = link
        self._consumer = consumer
        self._pull = pull
        self._order = order
        self._handler = handler
        self._ordered = ordered
        self._created = ""
        self._broken = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._paused = False
        self._resting = asyncio.Event()
        link.lost.append(self._hold)
        link.back.append(self._broken.set)

    async def start(self) -> None:
        """Bind for the first time; CannotStart where that can never be. What follows goes on beside."""
        bound = await self._bind_first()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(bound), name="jetstream consumer")

    def broken(self, reason: str) -> None:
        """The pull has ended: bind again."""
        log.event(logger, logging.WARNING, "consumer to be bound again", handler=self._handler, reason=reason)
        self._hold()
        self._broken.set()

    async def undelivered(self) -> int | None:
        """How many of the stream's messages the consumer has still to deliver; None if that is not known now."""
        bound = await self._look() if self._link.client.is_connected else None
        return None if bound is None else bound.undelivered

    async def pause(self) -> None:
        """Ask for nothing until `resume`; returns when nothing comes any more."""
        self._paused = True
        if self._keeper is not None and not self._resting.is_set():
            self._broken.set()
            await self._resting.wait()

    def resume(self) -> None:
        """Bind again, and ask."""
        if self._paused:
            self._paused = False
            self._broken.set()

    def stop(self) -> None:
        """Bind no more."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None

    async def _bind_first(self) -> Bound:
        where = f"{self._link.where}: handler {self._handler}"
        patience = asyncio.get_running_loop().time() + JETSTREAM_PATIENCE_S
        pause, longest = BIND_AGAIN_S
        while True:
            try:
                return await self._consumer.bind()
            except StreamMissing as error:
                raise CannotStart(f"{where}: {error}") from error
            except NoJetStream as error:
                if asyncio.get_running_loop().time() > patience:
                    raise CannotStart(f"{where}: {error}") from error
            except NotAllowedError as error:
                raise CannotStart(f"{where}: {error}") from error
            except PublishError as error:
                self._link.waiting(str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _bind_again(self) -> Bound:
        pause, longest = BIND_AGAIN_S
        while True:
            try:
                return await self._consumer.bind()
            except (StreamMissing, NoJetStream, PublishError) as error:
                if self._link.client.is_connected:
                    self._link.waiting(str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _keep(self, bound: Bound | None) -> None:
        """Serve; when that breaks, whatever it was just doing, begin again."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        while True:
            if self._paused:
                await self._rest()
                bound, pause = None, 0.0
            begun = loop.time()
            self._broken.clear()
            serving = asyncio.ensure_future(self._serve(bound))
            broken = asyncio.ensure_future(self._broken.wait())
            try:
                await asyncio.wait((serving, broken), return_when=asyncio.FIRST_COMPLETED)
                if not broken.done():
                    serving.result()
                    await broken
            except CannotStart as error:
                self._link.end(str(error))
                return
            except Exception as error:  # a bug: better another process than one that only seems to serve
                logger.exception("internal error")
                self._link.end(f"{type(error).__name__}: {error}")
                return
            finally:
                serving.cancel()
                broken.cancel()
                await asyncio.wait((serving,))
            bound = None
            if self._paused:
                continue
            shortest, longest = UNSTEADY_PAUSE_S
            pause = min(max(shortest, 2 * pause), longest) if loop.time() - begun < STEADY_S else 0.0
            await asyncio.sleep(pause)

    async def _rest(self) -> None:
        """Until it is resumed: serve nothing, and tell only that the broker is there again."""
        await self._pull.stop()
        if self._ordered:
            self._order.let_go()
        self._resting.set()
        while self._paused:
            self._broken.clear()
            await self._broken.wait()
            if self._paused and self._link.client.is_connected:
                self._link.connected()
        self._resting.clear()

    async def _serve(self, bound: Bound | None) -> None:
        """Returns when messages flow, from the consumer as it is now."""
        again = bound is None
        if bound is None:
            await self._pull.end()
            bound = await self._bind_again()
        if self._created not in ("", bound.created):
            text = "the consumer was made anew: it begins where deliverPolicy says"
            log.event(logger, logging.WARNING, text, handler=self._handler, stream=bound.stream)
            self._order.forget()
        self._created = bound.created
        self._hold()
        if self._ordered:
            await self._until_alone(asked=bound.waiting > 0)
        await self._pull.start(bound)
        if again:
            self._link.connected()
        if self._ordered:
            while not await self._until_complete():
                await self._pull.stop()
                self._order.let_go()
                await asyncio.sleep(random.uniform(0.0, LET_GO_S))
                await self._until_alone(asked=True)
                await self._pull.start(bound)
            self._order.release()

    def _hold(self) -> None:
        if self._ordered:
            self._order.hold()

    async def _until_alone(self, *, asked: bool) -> None:
        """An order needs that nobody else asks: who came first goes on, and this one stands by. `asked`: somebody did
        a moment ago."""
        if asked:
            text = "another process serves this ordered consumer: this one stands by"
            log.event(logger, logging.INFO, text, handler=self._handler)
        pause, longest = LOOK_S
        quiet = 0 if asked else 1
        while quiet < 2:  # twice: between two requests of the same process there is a moment without one
            await asyncio.sleep(pause)
            looked = await self._look()
            quiet = quiet + 1 if looked is not None and not looked.waiting else 0
            pause = min(2 * pause, longest)

    async def _until_complete(self) -> bool:
        """Until everything is here that somebody got before and did not settle; the server waits for as long as the ack
        wait before it delivers that again. False: somebody else asks as well.

        Both are believed when seen twice: what was asked a moment ago may not be counted yet, or not count any more.
        """
        pause, longest = LOOK_S
        complete = crowded = 0
        while complete < 2 and crowded < 2:
            if complete or crowded:
                pause = LOOK_S[0]
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            own = self._pull.requests
            bound = await self._look()
            if bound is None:
                continue
            is_crowded = bound.waiting > max(own, self._pull.requests)
            is_complete = not is_crowded and self._order.complete(bound.unsettled, bound.delivered)
            crowded = crowded + 1 if is_crowded else 0
            complete = complete + 1 if is_complete else 0
        return not crowded

    async def _look(self) -> Bound | None:
        """The consumer now; None if that is not known."""
        try:
            return await self._consumer.look()
        except (StreamMissing, NoJetStream, PublishError):
            return None
