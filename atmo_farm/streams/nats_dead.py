"""Where dead letters are kept on NATS: the JetStream stream that holds their subject.

Below `atmo.dead.` it is ATMO_DEAD, one for all handlers and applications, made here if it is not there and the user
may. It has no age of its own: `deadLetter.maxAge` goes with each letter (`Nats-TTL`, servers from 2.11 on).
"""

from __future__ import annotations

import asyncio
import logging
import math

import attrs

from atmo_farm import clock, log
from atmo_farm.directive.model import DeadLetter
from atmo_farm.errors import PublishError
from atmo_farm.streams import subjects
from atmo_farm.streams.base import Output
from atmo_farm.streams.nats_requests import (
    NO_JETSTREAM,
    STREAM_NOT_FOUND,
    JetStreamError,
    NoAnswerError,
    NotAllowedError,
    Requests,
    checked,
    keyed,
)

logger = logging.getLogger("atmo_farm.streams")

NAME, SUBJECTS = "ATMO_DEAD", "atmo.dead.>"

CONFIG = {
    "name": NAME,
    "subjects": [SUBJECTS],
    "retention": "limits",
    "storage": "file",
    "allow_direct": True,
    "allow_msg_ttl": True,
    "duplicate_window": 600 * 10**9,
}
"""Ten minutes: a message whose letter is there and that was not settled may be delivered again after `ackWait`."""

COMMAND = f"nats stream add {NAME} --subjects '{SUBJECTS}' --storage file --allow-direct --allow-msg-ttl --defaults"

LOOK_AGAIN_S, SILENT_S, DOUBT_S = 30.0, 5.0, 1.0
"""How long it is believed that there is no stream; that who did not answer does not; and that one which refuses a
letter is still what it was."""

UNAVAILABLE, TOO_LARGE, NAME_IN_USE, SUBJECTS_OVERLAP = 10008, 10054, 10058, 10065
"""JetStream's numbers for: not now; a message over the stream's own limit; two that a new stream may meet."""


@attrs.frozen
class Found:
    """A stream that keeps letters."""

    name: str
    takes_ttl: bool
    is_direct: bool = False
    """Messages are read without the stream's leader."""


_UNKNOWN = Found("", takes_ttl=False)
"""What a user has who may not ask: the first letter tells."""


async def stream_of(requests: Requests, subject: str) -> Found | None:
    """The stream that holds this subject; None: there is none, or no JetStream. PublishError: no answer for now."""
    try:
        names = (await requests.jetstream("STREAM.NAMES", {"subject": subject})).get("streams")
        if not names:
            return None
        config = (await requests.jetstream(f"STREAM.INFO.{names[0]}"))["config"]
    except JetStreamError as error:
        if error.code in (NO_JETSTREAM, STREAM_NOT_FOUND):
            return None
        raise PublishError(f"JetStream: {error}", transient=True) from error
    if config.get("retention") != "limits":  # what it keeps, it keeps for others
        return None
    return Found(names[0], bool(config.get("allow_msg_ttl")), bool(config.get("allow_direct")))


class DeadStream:
    """For the letters of one handler."""

    def __init__(self, requests: Requests, target: DeadLetter):
        self._requests = requests
        self._target = target
        self._found: Found | None = None
        self._had = False
        """There was one."""
        self._looked_s = self._silent_s = -math.inf
        self._told = ""
        self._lock = asyncio.Lock()
        self._looking: asyncio.Task[Found | None] | None = None

    def start(self) -> None:
        """Look for it beside the messages, so that what is missing is said before it is needed."""
        self._looking = asyncio.get_running_loop().create_task(self.find(), name="dead letters")
        self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    def look_again(self) -> None:
        """There is a connection again: what was believed of the server before counts no more."""
        self._looked_s = self._silent_s = -math.inf
        if self._found is _UNKNOWN:
            self._found = None

    async def find(self) -> Found | None:
        """Find it, or make it; what is in its way stands in the log, once. PublishError: not known for now."""
        async with self._lock:
            if clock.monotonic() - self._silent_s < SILENT_S:
                raise PublishError("the broker does not answer", transient=True)
            if self._found is None and clock.monotonic() - self._looked_s > LOOK_AGAIN_S:
                try:
                    self._found = await stream_of(self._requests, self._target.resource) or await self._make()
                    self._had = self._had or self._found is not None
                except NotAllowedError:
                    self._found = _UNKNOWN
                except NoAnswerError:
                    self._silent_s = clock.monotonic()
                    raise
                self._looked_s = clock.monotonic()
                if self._found and self._found.name and self._target.max_age_s and not self._found.takes_ttl:
                    text = "this stream keeps dead letters as long as its own max_age says, not `maxAge`"
                    reason = f"to change it: nats stream edit {self._found.name} --allow-msg-ttl"
                    log.event(logger, logging.WARNING, text, resource=self._target.resource, reason=reason)
            return self._found

    async def bury(self, letter: Output) -> None:
        """Returns when JetStream has it. PublishError, not transient: this letter it will never take."""
        found = await self.find()
        if found is None:
            raise PublishError(f"no stream keeps {letter.subject}", transient=False)
        headers = dict(letter.headers)
        if self._target.max_age_s is not None and found.takes_ttl:
            headers["Nats-TTL"] = f"{max(1, math.ceil(self._target.max_age_s))}s"
        answer = await self._requests.ask(letter.subject, letter.data, keyed(letter.original, headers, letter.id))
        if answer.status == "503":
            self._found = None
            if found is not _UNKNOWN:
                self._looked_s = -math.inf
            raise PublishError("the stream of dead letters is gone", transient=True)
        try:
            checked(answer.data)["seq"]
        except JetStreamError as error:
            self._doubt()
            raise PublishError(f"stream {found.name or '?'}: {error}", transient=error.code != TOO_LARGE) from error
        except KeyError:
            self._doubt()
            raise PublishError(f"what answers on {letter.subject} is not JetStream", transient=True) from None

    def _doubt(self) -> None:
        """It refuses: it may be another one by now, or keep something else. Not at each of many letters."""
        if self._found is not _UNKNOWN and clock.monotonic() - self._looked_s > DOUBT_S:
            self._found, self._looked_s = None, -math.inf

    async def _make(self) -> Found | None:
        resource = self._target.resource
        if not subjects.matches(SUBJECTS, resource):
            self._tell(f"to make one: nats stream add DEAD --subjects '{resource}' --storage file --defaults")
            return None
        try:
            made = await self._requests.jetstream(f"STREAM.CREATE.{NAME}", CONFIG)
            log.event(logger, logging.INFO, f"made the stream {NAME} for dead letters", subject=SUBJECTS)
            return Found(NAME, bool(made["config"].get("allow_msg_ttl")))
        except JetStreamError as error:
            if error.code == UNAVAILABLE or (error.code == NO_JETSTREAM and self._had):  # a server that begins
                raise PublishError(f"JetStream: {error}", transient=True) from error
            if error.code in (NAME_IN_USE, SUBJECTS_OVERLAP):  # another worker was faster, or it holds something else
                found = await stream_of(self._requests, resource)
                if found is None:
                    self._tell(f"{error}, and what holds it has another retention than limits")
                return found
            if error.code == NO_JETSTREAM:
                self._tell("the server has no JetStream", logging.INFO)
            else:
                self._tell(f"{error}; to make one: {COMMAND}")
        except NotAllowedError:
            self._tell(f"this user may not make one: {COMMAND}")
        return None

    def _tell(self, reason: str, level: int = logging.WARNING) -> None:
        if self._told != reason:
            self._told = reason
            text = "no stream keeps this handler's dead letters; they go to the spool on this machine"
            log.event(logger, level, text, resource=self._target.resource, reason=reason)
