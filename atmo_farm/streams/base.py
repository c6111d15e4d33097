"""What every stream is: the seam between brokers and the consumer.

A stream knows one broker, one handler's resource and nothing of Wasm. Its life:
`open` (connect, for as long as it takes) → `consume` (messages flow into the handler) → `stop` (no new messages; those
in flight finish and may still publish) → `close` (flush what was published, then disconnect).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import attrs


@attrs.define
class Message:
    """One message as a handler sees it."""

    subject: str
    """The concrete subject or topic it came on."""
    data: bytes
    """The payload, unwrapped when it came in a Grav envelope."""
    headers: dict[str, str]
    """Names in lower case; the last value of a repeated name."""
    id: str
    """Stable where the broker gives one, else new: for log lines and the guest's request id."""
    reply: str = ""
    """The reply subject; empty where the sender wants no answer."""
    envelope: str = ""
    """The uuid of the Grav envelope that it came in, so that the answer goes out in one; empty for a raw message."""


@attrs.define
class Output:
    """One message to publish; not changed once it is made (a frozen class would cost three times as much to make)."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    cause: Message | None = None
    """The message that it answers; decides whether it is wrapped in a Grav envelope."""


Handle = Callable[[Message], Awaitable[None]]
"""The consumer's end: returns when it has taken the message (not when it is done); while it waits, the stream holds
its next message back. It never raises."""


class StreamEvents(Protocol):
    """What a stream tells its process."""

    def waiting(self, connection: str, reason: str) -> None:
        """The broker is out of reach (at start or later); told once for each outage and change of reason."""

    def connected(self) -> None:
        """The broker is there (again) and the subscription stands."""

    def dropped(self, count: int) -> None:
        """So many messages were lost because the pending bound was reached."""

    def closed(self, reason: str) -> None:
        """The connection is gone for good; the process must end (exit code 11) and be replaced."""


class Stream(Protocol):
    """A source of messages and the place where their outputs go."""

    async def open(self) -> None:
        """Connect, retrying for ever; returns when connected. Cancellation gives up cleanly."""

    async def consume(self, handle: Handle) -> None:
        """Subscribe; returns when the broker has confirmed it. Messages then flow into `handle`."""

    def publish(self, output: Output) -> Awaitable[None]:
        """Send; what is returned is done when more may be published. PublishError, now or then."""

    async def answer_error(self, message: Message, code: int, text: str) -> None:
        """Tell the sender who waits on a reply subject that its message failed; without one, nothing is sent."""

    async def stop(self) -> None:
        """Take no new message from the broker; what was received but not handed over is given to `handle` first."""

    def abandon(self) -> int:
        """Hand over nothing more, now; returns how many messages were received and not handed over, which are lost."""

    async def close(self) -> None:
        """Flush what was published and disconnect."""

    def pending(self) -> int:
        """Messages received and not yet handed to the handler."""
