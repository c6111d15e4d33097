"""The dead letters of one handler on NATS, for whoever reads, replays or purges them: a connection of its own."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs
from nats import errors

from atmo_farm import log
from atmo_farm.directive.connections import NatsConnection
from atmo_farm.errors import PublishError, TimedOut
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams import nats_kept, nats_options, subjects
from atmo_farm.streams.base import Kept, Output
from atmo_farm.streams.jetstream_message import Delivery
from atmo_farm.streams.nats_client import WireClient
from atmo_farm.streams.nats_dead import SUBJECTS, TOO_LARGE, stream_of
from atmo_farm.streams.nats_link import PUBLISH_REFUSED
from atmo_farm.streams.nats_requests import (
    ANSWER_S,
    API,
    NO_JETSTREAM,
    Answer,
    Conversation,
    JetStreamError,
    NotAllowedError,
    Requests,
    checked,
    keyed,
)

logger = logging.getLogger("atmo_farm.streams")

CONNECT_S = 2
CONNECT_AGAIN_S = 0.1
BATCH = 256
IDLE_S = 60
"""How long the server keeps a reader of which it hears nothing."""

NO_MESSAGE = (10037, 10043, 10057)
"""JetStream's numbers for: no message found, sequence not found, it could not be deleted."""


class NatsLetters:
    """Use it as a context; then its calls raise PublishError when the broker does not answer or refuses."""

    def __init__(self, connection: NatsConnection, resource: str, client_name: str):
        """`resource` is where the letters are. CannotStart when the connection cannot be used as it is."""
        self._options = nats_options.options(connection, client_name)
        self._where = f"nats {connection.name}"
        self.resource = resource
        self._client = WireClient(self._options.wants_tls)
        self._requests = Requests(self._client)
        self.problem = ""
        """Why letters that may be there cannot be read; none is told of then."""
        self._cause: Exception | None = None
        """What the last attempt to connect ended with."""
        self._stream = ""
        self._is_direct = False
        self._covered: dict[str, bool] = {}
        """Subject → whether a stream has it."""

    async def __aenter__(self) -> NatsLetters:
        """Connect, once. TimedOut when that is not possible now."""
        try:
            await self._client.connect(
                **self._options.arguments,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=CONNECT_AGAIN_S,  # type: ignore[arg-type]  # a float works
                connect_timeout=CONNECT_S,
                error_cb=self._on_error,
            )
            found = await stream_of(self._requests, self.resource)
            if found is not None:
                self._stream, self._is_direct = found.name, found.is_direct
        except NotAllowedError as error:
            self.problem = str(error)
        except (errors.Error, OSError) as error:
            self._client.abort()
            reason = nats_options.reason(self._cause or error, self._options.secrets)
            raise TimedOut(f"{self._where} is out of reach: {reason}") from error
        except BaseException:
            self._client.abort()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.abort()

    async def letters(self, since_s: float | None = None) -> AsyncIterator[Kept]:
        """Those that are in the stream now; what comes later belongs to the next call."""
        if not self._stream:
            return
        last = int((await self._ask(f"STREAM.INFO.{self._stream}"))["state"]["last_seq"])
        sequence, left = 0, 1
        while left:
            before = sequence
            async with self._reader(sequence + 1, since_s) as (conversation, reader):
                try:
                    while left:
                        left = 0
                        async for answer in self._batch(conversation, reader):
                            delivery = Delivery(answer.reply)
                            sequence, stored_s, left = delivery.sequence, delivery.stored_s, int(delivery.pending)
                            if sequence > last:
                                return
                            if since_s is None or stored_s >= since_s:
                                yield nats_kept.kept(sequence, stored_s, wire_headers.pairs(answer.block))
                except _ReaderGoneError:  # whoever takes these took longer than the server keeps a reader
                    if sequence == before:
                        raise
                    left = 1

    async def load(self, letter_id: str) -> Kept | None:
        """One with its payload; None when it is not there, or is another handler's."""
        if not (self._stream and letter_id.isascii() and letter_id.isdecimal() and len(letter_id) < 20):
            return None
        request = {"seq": int(letter_id)}
        if not self._is_direct:
            try:
                found = await self._ask(f"STREAM.MSG.GET.{self._stream}", request)
            except _NoMessageError:
                return None
            message = found["message"]
            subject, time = message["subject"], message["time"]
            headers = wire_headers.pairs(base64.b64decode(message.get("hdrs", "")))
            data = base64.b64decode(message.get("data", ""))
        else:
            answer = await self._requests.ask(f"{API}DIRECT.GET.{self._stream}", json.dumps(request).encode())
            headers, added = nats_kept.split(wire_headers.pairs(answer.block))
            if "Nats-Sequence" not in added:
                return None
            subject, time, data = added.get("Nats-Subject", ""), added.get("Nats-Time-Stamp", ""), answer.data
        if subject != self.resource:
            return None
        return attrs.evolve(nats_kept.kept(int(letter_id), nats_kept.seconds(time), headers), size=len(data), data=data)

    async def remove(self, letter_id: str) -> bool:
        """Whether it was there. The id is one that `letters` or `load` gave: others are not looked at again."""
        try:
            await self._ask(f"STREAM.MSG.DELETE.{self._stream}", {"seq": int(letter_id), "no_erase": True})
        except _NoMessageError:
            return False
        return True

    def problem_of(self, target: str) -> str:
        """Why nothing can be sent on this subject; empty if it can."""
        return subjects.problem(target)

    def is_alone(self, who: str) -> bool:
        """Whether no other handler's letters than those of `<identifier>.<handler>` are there."""
        return self.resource == SUBJECTS.replace(">", who)

    async def purge(self) -> int:
        """Remove all that stand on the subject, whoever's they are, at once; returns how many these were. Where the
        user may not, none is removed."""
        if not self._stream:
            return 0
        try:
            return int((await self._ask(f"STREAM.PURGE.{self._stream}", {"filter": self.resource}))["purged"])
        except NotAllowedError:
            return 0

    async def send(self, output: Output) -> None:
        """Publish; returns when a stream has it, or, where none covers the subject, when the server has passed it on to
        somebody. PublishError, transient where it may be accepted later."""
        subject = output.subject
        if problem := subjects.problem(subject):
            raise PublishError(f"cannot publish on {subject[:100]!r}: {problem}", transient=False)
        if subject not in self._covered:
            try:
                names = (await self._requests.jetstream("STREAM.NAMES", {"subject": subject})).get("streams")
            except JetStreamError as error:
                if error.code != NO_JETSTREAM:
                    raise PublishError(f"JetStream: {error}", transient=True) from error
                names = None
            except NotAllowedError:
                names = None
            self._covered[subject] = bool(names)
        block = keyed(output.original, output.headers, output.id)
        if not self._covered[subject]:
            await self._requests.deliver(subject, output.data, block)
            return
        answer = await self._requests.ask(subject, output.data, block)
        if answer.status == "503":
            raise PublishError(f"the stream of {subject} is gone", transient=True)
        try:
            checked(answer.data)
        except JetStreamError as error:
            raise PublishError(f"{subject}: {error}", transient=error.code != TOO_LARGE) from error

    @contextlib.asynccontextmanager
    async def _reader(self, first: int, since_s: float | None) -> AsyncIterator[tuple[Conversation, str]]:
        """A consumer that gives headers alone, from this sequence on, and what comes of it."""
        config: dict[str, Any] = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": first,
            "ack_policy": "none",
            "filter_subject": self.resource,
            "headers_only": True,
            "inactive_threshold": IDLE_S * 10**9,
            "mem_storage": True,
            "num_replicas": 1,
        }
        if since_s is not None and first == 1:
            del config["opt_start_seq"]
            config |= {"deliver_policy": "by_start_time", "opt_start_time": nats_kept.rfc3339(since_s)}
        request = {"stream_name": self._stream, "config": config}
        name = (await self._ask(f"CONSUMER.CREATE.{self._stream}", request))["name"]
        try:
            async with Conversation(self._client, self._requests) as conversation:
                yield conversation, name
        finally:
            with contextlib.suppress(PublishError):
                await self._ask(f"CONSUMER.DELETE.{self._stream}.{name}")

    async def _batch(self, conversation: Conversation, reader: str) -> AsyncIterator[Answer]:
        """At most BATCH messages; fewer or none when there are no more."""
        request = json.dumps({"batch": BATCH, "no_wait": True}).encode()
        conversation.say(f"{API}CONSUMER.MSG.NEXT.{self._stream}.{reader}", request)
        for _ in range(BATCH):
            answer = await conversation.answer(ANSWER_S)
            if answer.reply:
                yield answer
                if int(Delivery(answer.reply).pending) == 0:
                    return
            elif answer.status in ("404", "408"):
                return
            else:
                raise _ReaderGoneError(f"the reader of {self._stream} is gone: {answer.status}", transient=True)

    async def _ask(self, what: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            return await self._requests.jetstream(what, request)
        except JetStreamError as error:
            if error.code in NO_MESSAGE:
                raise _NoMessageError(str(error), transient=True) from error
            raise PublishError(f"stream {self._stream}: {error}", transient=True) from error

    async def _on_error(self, error: Exception) -> None:
        if not self._client.is_connected:
            self._cause = error
            return
        if refused := PUBLISH_REFUSED.search(str(error).lower()):
            self._requests.refused(refused[1])
        reason = nats_options.reason(error, self._options.secrets)
        log.event(logger, logging.WARNING, "NATS error", connection=self._where, reason=reason)


class _NoMessageError(PublishError):
    """There is none of this sequence."""


class _ReaderGoneError(PublishError):
    """The server has forgotten it."""
