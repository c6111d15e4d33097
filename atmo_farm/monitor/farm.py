"""The monitor's view of the farm: what stands in the arena, the Directive in force, and what it asks the master."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from atmo_farm import clock, log
from atmo_farm.directive.model import Directive
from atmo_farm.directive.secrets import secrets
from atmo_farm.errors import TimedOut, with_exit_code
from atmo_farm.ipc.cards import CardReader, FarmCard, WorkerCard
from atmo_farm.ipc.channel import ChildChannel
from atmo_farm.ipc.messages import Ask, Told
from atmo_farm.monitor import report
from atmo_farm.monitor.context import MonitorContext

LOOK_S = 0.05
"""How often the arena is looked at while somebody waits."""

LOOK_SHARE = 0.1
"""And no more of the time than this goes into it, however large the farm is."""

ACK_S = 5.0
"""How long the master may take to say that it has heard."""

ASKS_PER_S, ASKS_AT_ONCE = 5, 50
"""What the master is asked; whoever wants more of it is refused."""

Progress = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Tells the client how far its verb is; returns when the client has room for more."""


class Farm:
    """One farm, as its monitor sees it; verbs get it as their first argument."""

    def __init__(self, context: MonitorContext, channel: ChildChannel):
        self.settings = context.settings
        self.state = context.state
        self.history = context.history
        self.ending = asyncio.Event()
        """The farm ends: nobody is left but the master and this process."""
        self.look_again_s = LOOK_S
        """When who waits for something should ask for the next report."""
        self._context = context
        self._channel = channel
        self._numbers = context.arena.farm
        self._card = CardReader(self._numbers, FarmCard)
        self._workers: list[tuple[CardReader[WorkerCard], memoryview]] = []
        self._ids = (f"{os.getpid()}.{number}" for number in itertools.count())
        self._waiting: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self._limit = log.RateLimit(ASKS_PER_S, ASKS_AT_ONCE)
        self._directive: tuple[int, Directive] | None = None

    @property
    def numbers(self) -> memoryview:
        """The master's own."""
        return self._numbers

    def seen(self) -> tuple[FarmCard | None, memoryview, list[report.Seen]]:
        """What stands in the arena now: the farm's card, its numbers, and those of all workers."""
        card = self._card.read()
        for index in range(len(self._workers), card.slots if card else 0):
            numbers = self._context.arena.slot(index)
            self._workers.append((CardReader(numbers, WorkerCard), numbers))
        return card, self._numbers, [(found, numbers) for reader, numbers in self._workers if (found := reader.read())]

    def report(self) -> dict[str, Any]:
        """The farm as it is now: what `status --json` prints."""
        began = clock.monotonic()
        made = report.report(*self.seen())
        made["farm"]["monitor"] = self._context.http.address if self._context.http else "off"
        self.look_again_s = max(LOOK_S, (clock.monotonic() - began) / LOOK_SHARE)
        return made

    def generation(self) -> int:
        """The number of the one in force."""
        card = self._card.read()
        return card.generation if card else self._context.generation

    def directive(self) -> Directive:
        """That of the generation in force, with every reference resolved; blocks while it reads a new one.

        AtmoFarmError when it cannot be read.
        """
        number = self.generation()
        if self._directive is None or self._directive[0] != number:
            found = self._context.directive(number)
            log.redact(secrets(found))
            self._directive = number, found
        return self._directive[1]

    async def ask(
        self, verb: str, cause: str, progress: Progress | None, value: str = "", count: int = 0
    ) -> Mapping[str, Any]:
        """Have the master do it, and return its result; without `progress`, nothing as soon as it has heard.

        AtmoFarmError with the master's reason, or when it is silent. Cancelling this takes nothing back.
        """
        if not self._limit.allow():
            raise TimedOut("this farm was asked too often in the last seconds; try again")
        ask = Ask(next(self._ids), verb, cause, value, count)
        words = self._waiting[ask.id] = asyncio.Queue()
        try:
            self._channel.ask(ask)
            try:
                what = await asyncio.wait_for(words.get(), ACK_S)
            except TimeoutError:
                silent_s = report.silent_s(self._numbers)
                raise TimedOut(f"the master does not answer; its last sign of life was {silent_s:.0f} s ago") from None
            while "progress" in what:
                if progress is None:
                    return {}
                await progress(what["progress"])
                what = await words.get()
        finally:
            del self._waiting[ask.id]
        if "error" in what:
            raise with_exit_code(what["error"], what["exit"])
        result: Mapping[str, Any] = what["result"]
        return result

    def told(self, told: Told) -> None:
        """What the master says; about what nobody waits for any more, or another monitor had asked, nothing is done."""
        for one in told.ids:
            if one in self._waiting:
                self._waiting[one].put_nowait(told.what)


Verb = Callable[[Farm, Mapping[str, Any], Progress], Awaitable[Mapping[str, Any]]]
"""What a client can ask for: the farm, the request's keys (and `uid`, the client's user id), how to tell progress;
returns the result.

AtmoFarmError becomes the client's error, with its exit code. It is cancelled when the client goes.
"""
