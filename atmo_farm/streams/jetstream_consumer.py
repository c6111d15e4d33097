"""The durable consumer on the server: found, made, or brought to what the Directive says.

Of one that is there, what the server lets us change is changed; what differs in another way is refused: it belongs to
somebody, or has a place in the stream that would be lost.
"""

from __future__ import annotations

import logging
from typing import Any

import attrs

from atmo_farm import log
from atmo_farm.directive.model import Handler, JetStream
from atmo_farm.errors import AtmoFarmError, CannotStart, PublishError
from atmo_farm.streams.nats_requests import NO_JETSTREAM, STREAM_NOT_FOUND, JetStreamError, Requests

logger = logging.getLogger("atmo_farm.streams")

NANOSECONDS = 1_000_000_000

CONSUMER_NOT_FOUND, CONSUMER_EXISTS = 10014, 10148
_NOT_NOW = frozenset({-1, 10002, 10008, 10023, 10026, 10028, 10047})
"""JetStream's numbers for: no leader, no room, too busy. -1 is no answer of JetStream."""

_DEFAULTS: dict[str, Any] = {"deliver_policy": "all", "ack_policy": "explicit", "max_deliver": -1}
"""What stands for a key that the server leaves out."""

_MUST_NOT_BE = ("deliver_subject", "deliver_group", "backoff", "headers_only", "priority_policy")
"""Settings with which a consumer is no plain pull consumer."""


class StreamMissing(AtmoFarmError):
    """There is no such stream (any more)."""


class NoJetStream(AtmoFarmError):
    """Nobody serves JetStream's API to this user, now or ever."""


@attrs.frozen
class Bound:
    """What counts of a consumer as it is now."""

    stream: str
    created: str
    """Another value: another consumer, though it has the same name."""
    unsettled: int
    """Messages that somebody has got and not settled."""
    undelivered: int
    """Messages of the stream that nobody has got yet."""
    delivered: int
    """The stream sequence up to which messages were delivered."""
    waiting: int
    """Requests for messages that are open."""
    largest_request_bytes: int
    """Bytes that one request may ask for; 0: no bound."""
    largest_request: int
    """Messages that may be asked for at once; 0: no bound."""
    longest_request_s: float
    """0: no bound."""

    @classmethod
    def from_info(cls, info: dict[str, Any]) -> Bound:
        """Of the server's answer."""
        config = info.get("config", {})
        return cls(
            stream=str(info.get("stream_name", "")),
            created=str(info.get("created", "")),
            unsettled=int(info.get("num_ack_pending", 0)),
            undelivered=int(info.get("num_pending", 0)),
            delivered=int(info.get("delivered", {}).get("stream_seq", 0)),
            waiting=int(info.get("num_waiting", 0)),
            largest_request_bytes=int(config.get("max_bytes", 0)),
            largest_request=int(config.get("max_batch", 0)),
            longest_request_s=int(config.get("max_expires", 0)) / NANOSECONDS,
        )


class Consumer:
    """One handler's."""

    def __init__(self, requests: Requests, where: str, handler: Handler, jetstream: JetStream):
        self._requests = requests
        self._where = where
        self._handler = handler.name
        self._workers = handler.workers
        self._subjects = jetstream.filter_subjects or (handler.resource,)
        self._jetstream = jetstream
        self._stream = jetstream.stream
        self._warned = False

    async def bind(self) -> Bound:
        """Find, make or change it.

        StreamMissing, NoJetStream; CannotStart if a consumer is there that cannot be used; PublishError if the server
        does not answer, or cannot now.
        """
        try:
            stream = self._jetstream.stream or await self._find_stream()
            info = await self._info(stream)
            info = await self._create(stream) if info is None else await self._adapt(stream, info)
        except JetStreamError as error:
            raise self._translated(error) from error
        self._stream = stream
        self._warn_of_places(stream, info.get("config", {}))
        return Bound.from_info(info)

    async def look(self) -> Bound | None:
        """How it is now; None if it is gone. Raises as `bind`."""
        try:
            info = await self._info(self._stream)
        except JetStreamError as error:
            raise self._translated(error) from error
        return Bound.from_info(info) if info is not None else None

    def _warn_of_places(self, stream: str, config: dict[str, Any]) -> None:
        """Each worker has a request that waits; of one too many the server says no, and that worker gets nothing."""
        places = int(config.get("max_waiting", 0))
        if 0 < places < self._workers and not self._warned:
            self._warned = True
            text = "the consumer lets fewer requests wait than there are workers: some of them get nothing"
            name = self._jetstream.durable
            log.event(
                logger, logging.WARNING, text, handler=self._handler, stream=stream, consumer=name,
                max_waiting=places, workers=self._workers,
            )  # fmt: skip

    def _translated(self, error: JetStreamError) -> AtmoFarmError:
        if error.code == STREAM_NOT_FOUND:
            return self._missing(self._jetstream.stream)
        if error.code == NO_JETSTREAM:
            return NoJetStream("the server has no JetStream for this user")
        return PublishError(f"JetStream: {error}", transient=True)

    async def _find_stream(self) -> str:
        for subject in self._subjects:
            names = (await self._requests.jetstream("STREAM.NAMES", {"subject": subject})).get("streams")
            if names:
                return str(names[0])
        raise self._missing("")

    def _missing(self, name: str) -> StreamMissing:
        subjects = ",".join(self._subjects)
        what = f"the stream {name} is missing" if name else f"no stream keeps {subjects}"
        return StreamMissing(f"{what}; to make it: nats stream add {name or 'NAME'} --subjects '{subjects}' --defaults")

    async def _info(self, stream: str) -> dict[str, Any] | None:
        try:
            return await self._requests.jetstream(f"CONSUMER.INFO.{stream}.{self._jetstream.durable}")
        except JetStreamError as error:
            if error.code == CONSUMER_NOT_FOUND:
                return None
            raise

    async def _put(self, stream: str, config: dict[str, Any], action: str) -> dict[str, Any]:
        request = {"stream_name": stream, "config": config, "action": action}
        return await self._requests.jetstream(f"CONSUMER.CREATE.{stream}.{self._jetstream.durable}", request)

    async def _create(self, stream: str) -> dict[str, Any]:
        try:
            info = await self._put(stream, self._wanted(), "create")
        except JetStreamError as error:
            found = await self._info(stream) if error.code == CONSUMER_EXISTS else None
            if found is not None:  # another worker was faster
                return await self._adapt(stream, found)
            raise self._or_refused(stream, error, "") from error
        self._tell("JetStream consumer created", stream, deliver_policy=self._jetstream.deliver_policy)
        return info

    async def _adapt(self, stream: str, info: dict[str, Any]) -> dict[str, Any]:
        """Bring the one that is there to what is wanted."""
        config, wanted = info["config"], self._wanted()
        wrong = [
            f"{key} is {config[key]!r}" for key in _MUST_NOT_BE if config.get(key) not in (None, "", "none", [], False)
        ]
        for key in ("ack_policy", "deliver_policy"):
            if config.get(key, _DEFAULTS[key]) != wanted[key]:
                wrong.append(f"{key} is {config.get(key)!r}, not {wanted[key]!r}")
        if wrong:
            raise self._refused(stream, ", ".join(wrong))
        changes = {
            key: wanted[key]
            for key in ("ack_wait", "max_ack_pending", "max_deliver")
            if config.get(key, _DEFAULTS.get(key)) != wanted[key]
        }
        if _filters(config) != _filters(wanted):
            changes["filter_subjects"] = wanted["filter_subjects"]
        if not changes:
            return info
        differences = ", ".join(f"{key} {_shown(key, config)} → {_shown(key, wanted)}" for key in changes)
        new = {**config, **changes}
        if "filter_subjects" in changes:
            new.pop("filter_subject", None)
        try:
            info = await self._put(stream, new, "update")
        except JetStreamError as error:
            raise self._or_refused(stream, error, differences) from error
        self._tell("JetStream consumer updated", stream, changes=differences)
        return info

    def _tell(self, text: str, stream: str, **fields: Any) -> None:
        name = self._jetstream.durable
        log.event(logger, logging.INFO, text, handler=self._handler, stream=stream, consumer=name, **fields)

    def _wanted(self) -> dict[str, Any]:
        jetstream = self._jetstream
        return {
            "durable_name": jetstream.durable,
            "name": jetstream.durable,
            "deliver_policy": jetstream.deliver_policy,
            "ack_policy": "explicit",
            "ack_wait": round(jetstream.ack_wait_s * NANOSECONDS),
            "max_ack_pending": jetstream.max_ack_pending,
            "max_deliver": -1,
            "replay_policy": "instant",
            "filter_subjects": list(self._subjects),
        }

    def _or_refused(self, stream: str, error: JetStreamError, what: str) -> Exception:
        """What the server says, as an end if it will say the same again."""
        if error.code in _NOT_NOW or error.code in (NO_JETSTREAM, STREAM_NOT_FOUND):
            return error
        return self._refused(stream, f"{what}: {error}" if what else str(error))

    def _refused(self, stream: str, why: str) -> CannotStart:
        name = self._jetstream.durable
        return CannotStart(
            f"{self._where}: the consumer {name} of the stream {stream} cannot serve the handler {self._handler}: "
            f"{why}; write another `durable`, or delete it (its place in the stream is lost): "
            f"nats consumer rm {stream} {name}"
        )


def _filters(config: dict[str, Any]) -> set[str]:
    several = config.get("filter_subjects") or [config.get("filter_subject", "")]
    return {subject for subject in several if subject}


def _shown(key: str, config: dict[str, Any]) -> str:
    if key == "filter_subjects":
        return ",".join(sorted(_filters(config))) or "(all)"
    value = config.get(key, _DEFAULTS.get(key))
    return f"{value / NANOSECONDS:g}s" if key == "ack_wait" and isinstance(value, int) else str(value)
