"""Requests to a NATS server and its JetStream, as bytes: each has its own reply subject below one inbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import count
from typing import Any

import attrs
from nats import errors
from nats.aio.subscription import Subscription

from atmo_farm.errors import PublishError
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams.nats_client import WireClient

API = "$JS.API."

ANSWER_S = 5.0
"""How long an answer may take: a server that is asked for what the user may not ask is silent."""


@attrs.frozen
class Answer:
    """A message that came back."""

    reply: bytes
    """Its own reply subject, or nothing."""
    block: bytes
    """Its header block, or nothing."""
    data: bytes

    @property
    def status(self) -> str:
        """`503` and the like; empty for an ordinary message."""
        return self.block[8:].partition(b"\r\n")[0].strip()[:3].decode("ascii", "replace")


NO_JETSTREAM = 0
STREAM_NOT_FOUND = 10059
_NOT_ENABLED = (10039, 10076)
"""Its numbers for an account, and a server, without it."""


class JetStreamError(Exception):
    """JetStream refused: `code` is its own number, NO_JETSTREAM where there is none."""

    def __init__(self, code: int, description: str):
        super().__init__(description)
        self.code = NO_JETSTREAM if code in _NOT_ENABLED else code


class NoAnswerError(PublishError):
    """It is silent: it is stuck, or the user may not ask this."""


class NotAllowedError(NoAnswerError):
    """The server has said that the user may not ask this."""


class Requests:
    """Over one connection, kept through its reconnects."""

    def __init__(self, client: WireClient):
        self._client = client
        self._inbox = ""
        self._numbers: Iterator[int] = count()
        self._waiting: dict[bytes, tuple[asyncio.Future[Answer], str]] = {}
        """Reply subject → who waits, and what was asked."""

    async def ask(self, subject: str, data: bytes = b"", block: bytes = b"") -> Answer:
        """The first answer. PublishError when it cannot be sent or none comes in time; transient where it may later."""
        async with self._sent(subject, data, block) as answer:
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await answer
            except TimeoutError:
                raise NoAnswerError("the broker does not answer", transient=True) from None

    async def deliver(self, subject: str, data: bytes = b"", block: bytes = b"") -> None:
        """Publish to whoever listens. PublishError: nobody does, or the server does not answer."""
        async with self._sent(subject, data, block) as answer:
            await self.confirm()
            if answer.done() and answer.result().status == "503":  # the server said so before it answered the ping
                raise PublishError(f"nobody listens on {subject}", transient=True)

    @contextlib.asynccontextmanager
    async def _sent(self, subject: str, data: bytes, block: bytes) -> AsyncIterator[asyncio.Future[Answer]]:
        if not self._inbox:
            self._inbox = self._client.new_inbox()
            await self._client.listen(self._inbox + ".*", "", self._receive)
        reply = f"{self._inbox}.{next(self._numbers)}"
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[reply.encode()] = answer, subject
        try:
            self.send(subject, reply, data, block)
            yield answer
        finally:
            del self._waiting[reply.encode()]

    async def jetstream(self, what: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """JetStream's answer to a request of its API (`STREAM.INFO.name`). JetStreamError when it refuses; PublishError
        when there is none."""
        answer = await self.ask(API + what, json.dumps(request).encode() if request else b"")
        if answer.status == "503":
            raise JetStreamError(NO_JETSTREAM, "the server has no JetStream")
        return checked(answer.data)

    def send(self, subject: str, reply: str, data: bytes, block: bytes) -> None:
        """Publish now. PublishError: too large (for good), or there is no connection."""
        client, size = self._client, len(block) + len(data)
        if not client.is_connected:
            raise PublishError("the broker is out of reach", transient=True)
        if size > client.max_payload:
            text = f"{size} bytes are more than the server's max_payload of {client.max_payload}"
            raise PublishError(text, transient=False)
        words = f"{subject} {reply}".encode("utf-8", "surrogateescape")
        if block:
            client.send(b"HPUB %b %d %d\r\n%b%b\r\n" % (words, len(block), size, block, data))
        else:
            client.send(b"PUB %b %d\r\n%b\r\n" % (words, size, data))

    async def confirm(self) -> None:
        """Returns when the server has seen what was sent. PublishError: nobody knows."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._client.confirm()
        except (errors.Error, OSError) as error:  # a TimeoutError is one
            raise PublishError("the broker does not answer", transient=True) from error

    def refused(self, subject: str) -> None:
        """The server does not let us ask this (in lower case); no answer will come."""
        for answer, asked in self._waiting.values():
            if asked.lower() == subject and not answer.done():
                answer.set_exception(NotAllowedError(f"this user may not publish on {asked}", transient=True))

    def _receive(self, subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        answer, _ = self._waiting.get(subject, (None, ""))
        if answer is not None and not answer.done():
            answer.set_result(Answer(reply, block, data))


class Conversation:
    """A subscription of its own, and what comes on it, whatever its subject: `async with Conversation(…) as c:`."""

    def __init__(self, client: WireClient, requests: Requests):
        self._client = client
        self._requests = requests
        self._answers: asyncio.Queue[Answer] = asyncio.Queue()
        self._reply = client.new_inbox()
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Conversation:
        self._subscription = await self._client.listen(self._reply, "", self._receive)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._subscription is not None
        with contextlib.suppress(errors.Error):
            await self._subscription.unsubscribe()
        self._client.forget(self._subscription)

    def say(self, subject: str, data: bytes = b"", block: bytes = b"") -> None:
        """Publish with this reply subject."""
        self._requests.send(subject, self._reply, data, block)

    async def answer(self, answer_s: float) -> Answer:
        """The next one. PublishError when there is none in time."""
        if not self._answers.empty():
            return self._answers.get_nowait()
        try:
            async with asyncio.timeout(answer_s):
                return await self._answers.get()
        except TimeoutError:
            raise NoAnswerError("the broker does not answer", transient=True) from None

    def _receive(self, _subject: bytes, reply: bytes, block: bytes, data: bytes) -> None:
        self._answers.put_nowait(Answer(reply, block, data))


def checked(data: bytes) -> dict[str, Any]:
    """An answer of JetStream. JetStreamError when it refuses, or is none."""
    try:
        answer = json.loads(data)
        error = answer.get("error")
    except (ValueError, AttributeError) as problem:
        raise JetStreamError(-1, "what answers is not JetStream") from problem
    if error:
        raise JetStreamError(int(error.get("err_code", 0)), str(error.get("description", "refused")))
    return dict(answer)


def keyed(original: tuple[tuple[str, str], ...], headers: Mapping[str, str], key: str) -> bytes:
    """A header block with the id by which JetStream knows whether it has the message already."""
    return wire_headers.encode_all(original, {**headers, "Nats-Msg-Id": key} if key else headers)
