"""Outputs that are safe when their futures are done.

    into a stream   HPUB with a reply subject of its own; done with the stream's acknowledgement
    by core NATS    PUB; done with the PONG that shows that the server has it, one for all of a turn of the loop

All publishes of a turn go out in one write. How many are out at once is bounded by `maxInFlight`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable
from itertools import count
from typing import Literal

from nats import errors

from atmo_farm import log
from atmo_farm.errors import PublishError
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams.base import Output
from atmo_farm.streams.codec import Codec
from atmo_farm.streams.headers import MESSAGE_ID
from atmo_farm.streams.nats_link import NatsLink
from atmo_farm.streams.nats_requests import NO_JETSTREAM, JetStreamError, Requests

logger = logging.getLogger("atmo_farm.streams")

ANSWER_S = 5.0
"""How long the acknowledgement may take."""

LOOK_AGAIN_S = 60.0
"""How long it is believed that no stream keeps a subject."""

_PASSING = frozenset({10002, 10023, 10047, 10028, 10077})
"""JetStream's numbers for limits of account, server and stream: there may be room later."""

_NO_RESPONDERS = b"NATS/1.0 503"


class Publisher:
    """Those of one handler. `output` is the Directive's: empty: into the stream that keeps the subject, if there is.

    `patient`: an output waits while there is no connection. Of a handler with an order: it tries again in its place,
    and an outage must not use its attempts up.
    """

    def __init__(
        self,
        link: NatsLink,
        requests: Requests,
        codec: Codec,
        handler: str,
        output: Literal["", "stream", "core"],
        *,
        patient: bool,
    ):
        self._link = link
        self._client = link.client
        self._requests = requests
        self._codec = codec
        self._handler = handler
        self._output = output
        self._patient = patient
        self._loop = asyncio.get_running_loop()
        self._streams: dict[str, str] = {}
        """Subject → the stream that keeps it; empty: none."""
        self._look_at: dict[str, float] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}
        self._may_ask = True
        self._inbox = b""
        self._tokens = count()
        self._waiting: dict[bytes, tuple[asyncio.Future[None], str, float]] = {}
        """Token → who waits, for which subject, until when."""
        self._sweep: asyncio.TimerHandle | None = None
        self._unconfirmed: list[asyncio.Future[None]] = []
        self._confirming: set[asyncio.Task[None]] = set()
        self._for_connection: list[asyncio.Future[None]] = []
        link.lost.append(self._lost)
        link.back.append(self._back)
        link.publish_refused.append(self._refused)

    async def open(self) -> None:
        """Subscribe to the acknowledgements; CannotStart if the server does not let us."""
        inbox = self._client.new_inbox()
        self._inbox = inbox.encode() + b"."
        await self._client.listen(inbox + ".*", "", self._receive)

    async def find(self, subject: str) -> None:
        """Learn whether a stream keeps it; none is said in the log. PublishError: not known for now."""
        if self._output:
            self._streams[subject] = self._output if self._output == "stream" else ""
            return
        try:
            names = (await self._requests.jetstream("STREAM.NAMES", {"subject": subject})).get("streams")
        except JetStreamError as error:
            if error.code != NO_JETSTREAM or self._streams.get(subject):
                raise PublishError(f"JetStream: {error}", transient=True) from error
            names = None
        except PublishError:
            if self._may_ask:
                raise
            names = None
        found = str(names[0]) if names else ""
        if not found:
            self._look_at[subject] = self._loop.time() + LOOK_AGAIN_S
        if self._streams.get(subject) != found:
            self._tell(subject, found)
        self._streams[subject] = found

    def publish(self, output: Output) -> Awaitable[None]:
        """Done when it is safe; PublishError at once or then."""
        if not self._client.is_connected:
            if self._patient:
                return self._publish_later(output)
            raise PublishError("the broker is out of reach", transient=True)
        stream = self._streams.get(output.subject)
        if stream is None:
            return self._find_and_publish(output)
        data = self._codec.payload(output)
        done: asyncio.Future[None] = self._loop.create_future()
        if stream:
            token = self._inbox + b"%x" % next(self._tokens)
            self._link.publish(output.subject, _block(output), data, token)
            self._waiting[token] = (done, output.subject, self._loop.time() + ANSWER_S)
            if self._sweep is None:
                self._sweep = self._loop.call_later(ANSWER_S, self._sweep_late)
        else:
            self._link.publish(output.subject, _block(output), data)
            if not self._unconfirmed:
                self._loop.call_soon(self._confirm)
            self._unconfirmed.append(done)
        return done

    def stop(self) -> None:
        """Nothing waits for a connection any more."""
        self._patient = False
        self._back()

    def close(self) -> None:
        """Whoever still waits is told that nobody knows."""
        self.stop()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for look in self._looks.values():
            look.cancel()
        self._lost()

    async def _find_and_publish(self, output: Output) -> None:
        await self.find(output.subject)
        await self.publish(output)

    async def _publish_later(self, output: Output) -> None:
        connected = self._loop.create_future()
        self._for_connection.append(connected)
        await connected
        await self.publish(output)

    def _receive(self, subject: bytes, _reply: bytes, block: bytes, data: bytes) -> None:
        """An acknowledgement. That it is a duplicate's is as good: `{"stream":"OUT","seq":1,"duplicate": true}`."""
        waiting = self._waiting.pop(subject, None)
        if waiting is None:
            return
        done, on, _ = waiting
        if done.done():
            return
        if block.startswith(_NO_RESPONDERS):
            _fail(done, PublishError(f"no stream keeps {on} now", transient=True))
            self._look_again(on)
        elif data.startswith(b'{"stream"'):
            done.set_result(None)
        else:
            _fail(done, _refusal(data, on))

    def _confirm(self) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        task = self._loop.create_task(self._confirm_these(unconfirmed), name="nats confirm")
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)
        now = self._loop.time()
        for subject in [subject for subject, at in self._look_at.items() if at < now]:
            self._look_again(subject)

    async def _confirm_these(self, unconfirmed: list[asyncio.Future[None]]) -> None:
        problem: PublishError | None = PublishError("the connection broke before the broker had it", transient=True)
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._client.confirm()
            problem = None
        except TimeoutError:
            problem = PublishError("the broker does not answer", transient=True)
        except (errors.Error, OSError):
            pass
        finally:
            for done in unconfirmed:
                if problem is not None:
                    _fail(done, problem)
                elif not done.done():
                    done.set_result(None)

    def _look_again(self, subject: str) -> None:
        """Beside the messages, once at a time."""
        self._look_at.pop(subject, None)
        if subject not in self._looks and not self._output:
            self._looks[subject] = self._loop.create_task(self._look(subject), name="output stream")

    async def _look(self, subject: str) -> None:
        try:
            await self.find(subject)
        except PublishError as error:
            log.event(logger, logging.DEBUG, "output stream not known", subject=subject, reason=str(error))
        finally:
            del self._looks[subject]

    def _tell(self, subject: str, stream: str) -> None:
        if stream:
            level, text = logging.INFO, "outputs go into a stream"
        else:
            level = logging.WARNING
            text = "no known stream keeps the outputs: they go out by core NATS, to whoever is there"
        log.event(logger, level, text, handler=self._handler, subject=subject, stream=stream or None)

    def _sweep_late(self) -> None:
        """Those whose time is over; all have the same time, so the oldest come first."""
        self._sweep = None
        now = self._loop.time()
        while self._waiting:
            token, (done, subject, until) = next(iter(self._waiting.items()))
            if until > now:
                self._sweep = self._loop.call_at(until, self._sweep_late)
                return
            del self._waiting[token]
            _fail(done, PublishError(f"no acknowledgement for {subject} within {ANSWER_S:g} s", transient=True))

    def _refused(self, subject: str) -> None:
        if subject == "$js.api.stream.names":
            self._may_ask = False
        for token, (done, on, _) in list(self._waiting.items()):
            if on.lower() == subject:
                del self._waiting[token]
                _fail(done, PublishError(f"this user may not publish on {on}", transient=True))

    def _back(self) -> None:
        self._look_at.clear()
        waiting, self._for_connection = self._for_connection, []
        for connected in waiting:
            if not connected.done():
                connected.set_result(None)

    def _lost(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for done, subject, _ in waiting.values():
            _fail(done, PublishError(f"the connection broke before {subject} was acknowledged", transient=True))
        for task in self._confirming:
            task.cancel()


def _block(output: Output) -> bytes:
    """The headers with the id by which a stream knows whether it has it already; the guest's own id wins."""
    headers = output.headers
    if not output.id:
        return wire_headers.encode(headers) if headers else b""
    if not headers:
        return f"NATS/1.0\r\nNats-Msg-Id: {output.id}\r\n\r\n".encode()
    spelled = {"Nats-Msg-Id" if name.lower() == MESSAGE_ID else name: value for name, value in headers.items()}
    return wire_headers.encode({"Nats-Msg-Id": output.id, **spelled})


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
