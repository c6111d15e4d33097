"""The two ways in which an output becomes safe.

Acknowledged    into a stream: HPUB with a reply subject of its own; done with the stream's answer
Confirmed       by core NATS: PUB; done with the PONG that shows that the server has it, one for a turn of the loop
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import count

from nats import errors

from atmo_farm.errors import PublishError
from atmo_farm.streams.nats_link import NatsLink

ANSWER_S = 5.0
"""How long the answer may take."""

_PASSING = frozenset({10002, 10023, 10028, 10047, 10077})
"""JetStream's numbers for limits of account, server and stream: there may be room later."""

_NO_RESPONDERS = b"NATS/1.0 503"


class Acknowledged:
    """`gone` is told the subject that no stream keeps (any more)."""

    def __init__(self, link: NatsLink, gone: Callable[[str], None]):
        self._link = link
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._inbox = b""
        self._tokens = count()
        self._waiting: dict[bytes, tuple[asyncio.Future[None], str, float]] = {}
        """Reply subject → who waits, for which subject, until when."""
        self._sweep: asyncio.TimerHandle | None = None
        link.lost.append(self._lost)
        link.publish_refused.append(self._refused)

    async def open(self) -> None:
        """Subscribe to the answers."""
        inbox = self._link.client.new_inbox()
        self._inbox = inbox.encode() + b"."
        await self._link.client.listen(inbox + ".*", "", self._receive)

    def publish(self, subject: str, block: bytes, data: bytes) -> asyncio.Future[None]:
        """Done when the stream has it; PublishError at once or then."""
        reply = self._inbox + b"%x" % next(self._tokens)
        self._link.publish(subject, block, data, reply)
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting[reply] = (done, subject, self._loop.time() + ANSWER_S)
        if self._sweep is None:
            self._sweep = self._loop.call_later(ANSWER_S, self._sweep_late)
        return done

    def close(self) -> None:
        """Whoever still waits is told that nobody knows."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._lost()

    def _receive(self, subject: bytes, _reply: bytes, block: bytes, data: bytes) -> None:
        """An answer. That it is a duplicate's is as good: `{"stream":"OUT","seq":1,"duplicate": true}`."""
        waiting = self._waiting.pop(subject, None)
        if waiting is None:
            return
        done, on, _ = waiting
        if done.done():
            return
        if block.startswith(_NO_RESPONDERS):
            _fail(done, PublishError(f"no stream keeps {on} now", transient=True))
            self._gone(on)
        elif data.startswith(b'{"stream"'):
            done.set_result(None)
        else:
            _fail(done, _refusal(data, on))

    def _sweep_late(self) -> None:
        """Those whose time is over; all have the same time, so the oldest come first."""
        self._sweep = None
        now = self._loop.time()
        while self._waiting:
            reply, (done, subject, until) = next(iter(self._waiting.items()))
            if until > now:
                self._sweep = self._loop.call_at(until, self._sweep_late)
                return
            del self._waiting[reply]
            _fail(done, PublishError(f"no acknowledgement for {subject} within {ANSWER_S:g} s", transient=True))

    def _refused(self, subject: str) -> None:
        for reply, (done, on, _) in list(self._waiting.items()):
            if on.lower() == subject:
                del self._waiting[reply]
                _fail(done, PublishError(f"this user may not publish on {on}", transient=True))

    def _lost(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for done, subject, _ in waiting.values():
            _fail(done, PublishError(f"the connection broke before {subject} was acknowledged", transient=True))


class Confirmed:
    """On one link."""

    def __init__(self, link: NatsLink):
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._unconfirmed: list[asyncio.Future[None]] = []
        self._confirming: set[asyncio.Task[PublishError | None]] = set()
        link.lost.append(self.close)

    def publish(self, subject: str, block: bytes, data: bytes) -> asyncio.Future[None]:
        """Done when the server has it; PublishError at once or then."""
        self._link.publish(subject, block, data)
        done: asyncio.Future[None] = self._loop.create_future()
        if not self._unconfirmed:
            self._loop.call_soon(self._confirm)
        self._unconfirmed.append(done)
        return done

    def close(self) -> None:
        """Whoever still waits is told that nobody knows."""
        for task in self._confirming:
            task.cancel()

    def _confirm(self) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        task = self._loop.create_task(self._seen(), name="nats confirm")
        self._confirming.add(task)

        def settle(task: asyncio.Task[PublishError | None]) -> None:
            self._confirming.discard(task)
            problem = _broken() if task.cancelled() else task.result()
            for done in unconfirmed:
                if problem is not None:
                    _fail(done, problem)
                elif not done.done():
                    done.set_result(None)

        task.add_done_callback(settle)

    async def _seen(self) -> PublishError | None:
        """None when the server has all that was sent."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._link.client.confirm()
            return None
        except TimeoutError:
            return PublishError("the broker does not answer", transient=True)
        except (errors.Error, OSError):
            return _broken()


def _broken() -> PublishError:
    return PublishError("the connection broke before the broker had it", transient=True)


def _refusal(answer: bytes, subject: str) -> PublishError:
    """`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"OUT","seq":0}`"""
    try:
        decoded = json.loads(answer)
        error = decoded["error"]
        code, number, text = int(error["code"]), int(error.get("err_code", 0)), str(error.get("description", ""))
    except (ValueError, LookupError, TypeError):
        return PublishError(f"what answers on {subject} is no stream; `output: core` publishes to it", transient=True)
    passing = code >= 500 or number in _PASSING
    return PublishError(f"the stream {decoded.get('stream', '')} refuses it: {text[:200]}", transient=passing)


def _fail(done: asyncio.Future[None], error: PublishError) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # whoever waited may be gone: nobody is to blame in the log
