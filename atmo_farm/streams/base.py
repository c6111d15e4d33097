"""What every stream is: the seam between brokers and the consumer.

A stream knows one broker, one handler's resource and nothing of Wasm. Its life:
`open` (connect, for as long as it takes) → `consume` (messages flow into the handler) → `stop` (no new messages; those
in flight finish and may still publish) → `close` (flush what was published, then disconnect).

A message of a durable stream is the broker's until it is settled, exactly once:

    ack          its output is safe
    give_back    to be delivered again, to whoever asks next
    terminate    never again: its dead letter is safe

One that is never settled, because its process ended or was told to leave it, is delivered again by the broker's own
rules. Streams that are not durable have nothing to settle: the same calls do nothing there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from typing import Any, Protocol

import attrs


class Origin(Protocol):
    """Where the broker had a message: the stream's own note, kept with the message until it is settled."""

    def field(self, name: str) -> str:
        """What the guest reads as request header `name` (lower case, `atmo-…`); empty for what it does not have."""


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
    raw: bytes | None = None
    """The payload as it came, where that is not `data`: what a dead letter holds."""
    raw_headers: bytes | tuple[tuple[str, str], ...] = b""
    """The headers as they came: NATS's block, or pairs."""
    attempt: int = 1
    """Which delivery of it by the broker this is, from 1."""
    number: int = 0
    """What the crash ledger knows it by: the same at each delivery, and no other message of this handler has it. 0: the
    broker delivers it once."""
    partition: int = 0
    """Where the broker has several: messages of one have an order."""
    record_key: bytes | None = None
    """Kafka's key."""
    origin: Origin | None = None


@attrs.define
class Output:
    """One message to publish; not changed once it is made (a frozen class would cost three times as much to make)."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    cause: Message | None = None
    """The message that it comes of; it decides whether an answer is wrapped in a Grav envelope."""
    id: str = ""
    """By which the broker may know that it has this message already; empty: it cannot come twice."""
    record_key: bytes | None = None
    """Kafka's key."""
    original: tuple[tuple[str, str], ...] = ()
    """Headers that go out before `headers` as they once came in, with capitals and repeated names; bytes that are no
    UTF-8 as lone surrogates."""


class _Done:
    """An awaitable that is done."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


DONE: Awaitable[None] = _Done()
"""Returned where nothing has to be waited for: to await it is right, and to see that it is this one is cheaper."""


class Receipt:
    """What is heard later of an output, by a stream that keeps the order of `publish` on the way to its broker.

    It can be awaited as any other; or `then` says what is to be called, which costs no future and no task.
    """

    __slots__ = ("_call", "_error", "_is_told")

    def __init__(self) -> None:
        self._call: Callable[[Exception | None], None] | None = None
        self._error: Exception | None = None
        self._is_told = False

    def then(self, call: Callable[[Exception | None], None] | None) -> None:
        """What is called once, if nothing was told yet: with None, or what the output failed with. None: nothing."""
        self._call = call

    def tell(self, error: Exception | None = None) -> None:
        """It is known."""
        self._is_told, self._error = True, error
        call, self._call = self._call, None
        if call is not None:
            call(error)

    def __await__(self) -> Generator[Any, None, None]:
        if not self._is_told:
            future = asyncio.get_running_loop().create_future()
            self.then(lambda _error: None if future.done() else future.set_result(None))
            yield from future
        if self._error is not None:
            raise self._error


Handle = Callable[[Message], Awaitable[None]]
"""The consumer's end: what it returns is done when it has taken the message (not when that is settled); until then the
stream holds its next message back. It never raises."""


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


@attrs.frozen
class Kept:
    """A dead letter where it is kept."""

    id: str
    """By which people name it: its number in the stream, or the name of its file in the spool."""
    key: str
    """By which the broker knows whether it has it already (`Output.id`)."""
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    """The original's as they came, then the letter's own; bytes that are no UTF-8 as lone surrogates."""
    size: int
    """Bytes of the payload."""
    kept_s: float
    """Since when, wall-clock seconds."""
    record_key: bytes | None = None
    data: bytes = attrs.field(default=b"", repr=False)
    """The payload; empty in a list."""


class Letters(Protocol):
    """A place where the dead letters of one handler are kept. PublishError: it does not answer, or refuses."""

    def letters(self, since_s: float | None = None) -> AsyncIterator[Kept]:
        """Those that are there now, the oldest first, without payloads; any may be removed meanwhile. `since_s`: kept
        at or after this wall-clock second."""

    async def load(self, letter_id: str) -> Kept | None:
        """One with its payload; None when there is none of this id."""

    async def remove(self, letter_id: str) -> bool:
        """Whether it was there."""


class Target(Protocol):
    """A place where outputs go, where that is not the stream that their messages come from."""

    async def open(self) -> None:
        """Connect, retrying for ever; returns when connected. Cancellation gives up cleanly."""

    def publish(self, output: Output) -> Awaitable[None]:
        """As `Stream.publish`: what is returned is done when the target's broker has the output safely."""

    async def stop(self) -> None:
        """What waits for a connection fails from now on."""

    async def close(self) -> None:
        """Flush what was published and disconnect."""


class Stream(Protocol):
    """A source of messages and the place where their outputs go."""

    durable: bool
    """The broker keeps a message until it is settled."""
    redelivers: bool
    """`give_back` brings a message back after its delay; where not, whoever has it tries again itself."""

    async def open(self) -> None:
        """Connect, retrying for ever; returns when connected. Cancellation gives up cleanly."""

    async def consume(self, handle: Handle) -> None:
        """Subscribe; returns when the broker has confirmed it. Messages then flow into `handle`."""

    async def pause(self) -> None:
        """Take no new message until `resume`; returns when none comes any more. What was received is handed over, or
        held back where the broker allows that. Any number of times, from `open` on, also before `consume`; it may be
        cancelled and followed by `resume`, and the other way round."""

    async def resume(self) -> None:
        """Take messages again; CannotStart if the broker does not let us any more."""

    def publish(self, output: Output) -> Awaitable[None]:
        """Send. What is returned is done when the message that it answers may be acknowledged: the broker has taken it,
        or, on a stream that is not durable, when more may be published. PublishError, now or then."""

    def ack(self, message: Message) -> None:
        """Done with it."""

    def give_back(self, message: Message, delay_s: float) -> None:
        """Deliver it again after so many seconds; of a stream that does not redeliver: another process will have it."""

    def terminate(self, message: Message) -> None:
        """Never deliver it again."""

    async def bury(self, letter: Output) -> None:
        """Publish a dead letter; returns when it is kept safely. PublishError; not transient where it never can be."""

    async def answer_error(self, message: Message, code: int, text: str) -> None:
        """Tell the sender who waits on a reply subject that its message failed; without one, nothing is sent."""

    async def stop(self) -> None:
        """Take no new message from the broker. What was received and not handed over goes back to the broker at once,
        or, where that cannot be, is given to `handle` first."""

    def abandon(self) -> int:
        """Hand over nothing more, now; returns how many messages are lost by it: received, not handed over, and no
        broker keeps them."""

    async def close(self) -> None:
        """Flush what was published and disconnect."""

    async def lag(self) -> Mapping[int, int]:
        """Messages that the broker keeps for the handler and has not delivered, by partition (0 where it has none);
        empty where it keeps none, or that is not known now."""

    def pending(self) -> int:
        """Messages received and not yet handed to the handler; while it is paused, without those held back."""
