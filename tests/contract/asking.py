"""Asking a source as the proxy's server does, without the server: each call's end, and clients that give up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from atmo_farm import clock
from atmo_farm.datasource.base import Source
from atmo_farm.datasource.call import Call
from atmo_farm.ipc.frames import Op, Status


class Failed(Exception):
    """A call ended with something other than OK."""

    def __init__(self, status: Status, text: str):
        super().__init__(f"{status.name}: {text}")
        self.status = status
        self.text = text


class Asked(asyncio.Future[bytes]):
    """One call: its answer, or Failed, or TimeoutError at its deadline. Cancelling it gives it up."""

    source: Source
    call: Call
    timer: asyncio.TimerHandle
    ends = 0
    """How often it was ended; more than once is an error of the source."""

    def cancel(self, msg: object = None) -> bool:
        """As a client that does not want it any more."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._give_up()
        return cancelled

    def expire(self) -> None:
        """As a client does at the deadline."""
        if not self.done():
            self.set_exception(TimeoutError("its deadline"))
            self._give_up()

    def _give_up(self) -> None:
        self.timer.cancel()
        self.call.give_up()
        self.source.cancel(self.call)


class Asker:
    """One client of a source."""

    def __init__(self, source: Source, handler: str = "tests"):
        self._source = source
        self._handler = handler
        self._numbers = 0

    def ask(self, op: Op, *arguments: object, within_s: float = 30.0) -> Asked:
        """Make a call."""
        self._numbers += 1
        loop = asyncio.get_running_loop()
        asked = Asked(loop=loop)

        def end(_: Call, status: Status, payload: bytes) -> None:
            asked.ends += 1
            asked.timer.cancel()
            if status is Status.OK:
                asked.set_result(payload)
            else:
                asked.set_exception(Failed(status, payload.decode()))

        deadline = clock.monotonic() + within_s
        asked.source = self._source
        asked.timer = loop.call_later(within_s, asked.expire)
        asked.call = Call(self, self._numbers, op, self._handler, deadline, arguments, end)
        self._source.execute(asked.call)
        return asked

    def get(self, key: str, within_s: float = 30.0) -> Asked:
        """CACHE_GET."""
        return self.ask(Op.CACHE_GET, key, within_s=within_s)

    def set(self, key: str, value: bytes, ttl_s: int = 0, within_s: float = 30.0) -> Asked:
        """CACHE_SET."""
        return self.ask(Op.CACHE_SET, key, value, ttl_s, within_s=within_s)


async def outcome(asked: Asked) -> bytes | str:
    """The answer, or how it failed: `FAILED: key not found`, `timeout`, `cancelled`."""
    try:
        return await asked
    except Failed as error:
        return str(error)
    except TimeoutError:
        return "timeout"
    except asyncio.CancelledError:
        return "cancelled"


async def outcomes(all_asked: Sequence[Asked]) -> list[bytes | str]:
    """Of several, in their order."""
    return [await outcome(asked) for asked in all_asked]


async def ready(source: Source) -> None:
    """Return when the source can be used."""
    async with asyncio.timeout(20):
        while source.problem():
            await asyncio.sleep(0.005)


async def down(source: Source) -> str:
    """Return, with the reason, when the source counts as out of reach for a reason other than its start."""
    async with asyncio.timeout(20):
        while source.problem() in ("", "not connected yet"):
            await asyncio.sleep(0.005)
    return source.problem()


def some_bytes(chance: random.Random) -> bytes:
    """Empty, short or some kilobytes of any bytes."""
    return chance.randbytes(chance.choice((0, 1, 7, 100, 5000)))
