"""The durable consumer on the server: found, made, or brought to what the Directive says.

Of one that is there, what the server lets us change is changed; what differs in another way is refused: it belongs to
somebody, or has a place in the stream that would be lost.
"""

from __future__ import annotations

import logging
from typing import Any

import attrs

from atmo_farm import log
from atmo_farm.directive.model import JetStream
from atmo_farm.errors import AtmoFarmError, CannotStart
from atmo_farm.streams.jetstream_api import CONSUMER_EXISTS, STREAM_NOT_FOUND, Api, ApiError

logger = logging.getLogger("atmo_farm.streams")

NANOSECONDS = 1_000_000_000

_DEFAULTS: dict[str, Any] = {"deliver_policy": "all", "ack_policy": "explicit", "max_deliver": -1}
"""What stands for a key that the server leaves out."""

_MUST_NOT_BE = ("deliver_subject", "deliver_group", "backoff", "headers_only", "priority_policy")
"""Settings with which a consumer is no plain pull consumer."""


class StreamMissing(AtmoFarmError):
    """There is no such stream (any more)."""


@attrs.frozen
class Bound:
    """What counts of a consumer as it is now."""

    stream: str
    created: str
    """Another value: another consumer, though it has the same name."""
    unsettled: int
    """Messages that somebody has got and not settled."""
    waiting: int
    """Requests for messages that are open."""
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
            waiting=int(info.get("num_waiting", 0)),
            largest_request=int(config.get("max_batch", 0)),
            longest_request_s=int(config.get("max_expires", 0)) / NANOSECONDS,
        )


class Consumer:
    """One handler's; `resource` is what it listens to."""

    def __init__(self, api: Api, where: str, handler: str, resource: str, jetstream: JetStream):
        self._api = api
        self._where = where
        self._handler = handler
        self._resource = resource
        self._jetstream = jetstream
        self.stream = jetstream.stream

    async def bind(self) -> Bound:
        """Find, make or change it.

        StreamMissing; CannotStart if a consumer is there that cannot be used; PublishError if the server does not
        answer, or not with that.
        """
        name = self._jetstream.durable
        try:
            stream = self._jetstream.stream or await self._find_stream()
            info = await self._api.consumer(stream, name)
            if info is None:
                info = await self._create(stream)
            else:
                info = await self._adapt(stream, info)
        except ApiError as error:
            if error.number == STREAM_NOT_FOUND:
                raise self._missing(self._jetstream.stream) from error
            raise
        self.stream = stream
        return Bound.from_info(info)

    async def look(self) -> Bound | None:
        """How it is now; None if it is gone. PublishError as `bind`."""
        try:
            info = await self._api.consumer(self.stream, self._jetstream.durable)
        except ApiError as error:
            if error.number == STREAM_NOT_FOUND:
                return None
            raise
        return Bound.from_info(info) if info is not None else None

    async def _find_stream(self) -> str:
        for subject in self._jetstream.filter_subjects or (self._resource,):
            stream = await self._api.stream_of(subject)
            if stream:
                return stream
        raise self._missing("")

    def _missing(self, name: str) -> StreamMissing:
        subjects = ",".join(self._jetstream.filter_subjects or (self._resource,))
        what = f"the stream {name} is missing" if name else f"no stream keeps {subjects}"
        command = f'nats stream add {name or "NAME"} --subjects "{subjects}"'
        return StreamMissing(f"{what}; create it: {command}")

    async def _create(self, stream: str) -> dict[str, Any]:
        name = self._jetstream.durable
        try:
            info = await self._api.put_consumer(stream, self._wanted(), action="create")
        except ApiError as error:
            if error.number != CONSUMER_EXISTS:
                raise self._refused(stream, str(error)) if not error.transient else error from error
            found = await self._api.consumer(stream, name)  # another worker was faster
            if found is None:
                raise
            return await self._adapt(stream, found)
        begins = self._jetstream.deliver_policy
        text = "JetStream consumer created"
        log.event(
            logger, logging.INFO, text, handler=self._handler, stream=stream, consumer=name, deliver_policy=begins
        )
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
            info = await self._api.put_consumer(stream, new, action="update")
        except ApiError as error:
            if error.transient:
                raise
            raise self._refused(stream, f"{differences}: {error}") from error
        log.event(
            logger,
            logging.INFO,
            "JetStream consumer updated",
            handler=self._handler,
            stream=stream,
            consumer=self._jetstream.durable,
            changes=differences,
        )
        return info

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
            "filter_subjects": list(jetstream.filter_subjects or (self._resource,)),
        }

    def _refused(self, stream: str, why: str) -> CannotStart:
        name = self._jetstream.durable
        return CannotStart(
            f"{self._where}: the consumer {name} of the stream {stream} cannot serve the handler {self._handler}: {why}; "
            f"write another `durable`, or delete it (its place in the stream is lost): nats consumer rm {stream} {name}"
        )


def _filters(config: dict[str, Any]) -> set[str]:
    several = config.get("filter_subjects") or [config.get("filter_subject", "")]
    return {subject for subject in several if subject}


def _shown(key: str, config: dict[str, Any]) -> str:
    if key == "filter_subjects":
        return ",".join(sorted(_filters(config))) or "(all)"
    value = config.get(key, _DEFAULTS.get(key))
    return f"{value / NANOSECONDS:g}s" if key == "ack_wait" and isinstance(value, int) else str(value)
