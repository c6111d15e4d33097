"""What a Kafka client library must do for the stream: the two protocols that each driver implements.

A consumer and a producer belong to the one thread that made them; every call but those on the listener may block for
as long as it says. What goes wrong is told in three ways, whichever library it is:

    BrokerUnavailable   out of reach, or not able for now: the same call may be made again
    BrokerRefused       never, as things are: wrong credentials, no such topic, no right, fenced
    PublishError        one record was not accepted; beside it others may have been
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import attrs

from atmo_farm.errors import AtmoFarmError, PublishError
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.options import Options

MOST_RECORDS = 500
"""Of one poll."""
TRANSACTION_WITHIN_S = 10.0
"""So long a transaction's beginning and its outputs may take."""
DECIDED_WITHIN_S = 3.0
"""So long its offsets, and then its commit, wait for the broker: each is a small request or two."""
TRANSACTION_TIMEOUT_S = 45.0
"""So long the broker waits for one whose process is gone, with all who read what it has written so far."""


class BrokerUnavailable(AtmoFarmError):
    """No answer, or one that may be another in a moment."""


class BrokerRefused(AtmoFarmError):
    """The broker, or the client library, will never do this."""


class Fenced(BrokerRefused):
    """Another member with the same static id has joined: this one is out, and another process has its partitions."""


class Rebalanced(AtmoFarmError):
    """The group has another generation by now: nothing was written. What is ours is known after the next poll."""


class Record(Protocol):
    """One record as it was read."""

    @property
    def offset(self) -> int:
        """Its number in its partition."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970."""

    @property
    def key(self) -> bytes | None:
        """Records of one key are in one partition, as a rule."""

    @property
    def value(self) -> bytes | None:
        """None is a tombstone."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """In order; names may be there several times."""


@attrs.define
class Outgoing:
    """One record to write. `token` and `cause` are its sender's own."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    token: Any = None
    """Who is to hear of it."""
    cause: Any = None
    """What it comes of."""

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.value or b"") + len(self.key or b"")


Result = tuple[Outgoing, PublishError | None]
"""A record that was accepted by all replicas in sync, or why it was not."""


@attrs.frozen
class Standing:
    """A membership as it is now: as long as the broker takes `member` for one of the group, no other has these."""

    member: Any
    """The library's own."""
    partitions: frozenset[int]


Refused = tuple[Outgoing, PublishError]


class Listener(Protocol):
    """Who is told of rebalances and commits: by `poll`, on its thread, in the order in which things happened."""

    def assigned(self, partitions: Collection[int]) -> None:
        """These are ours from now on; what they hold comes with this poll or a later one."""

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The broker has these; told by `commit` itself or by a later `poll`."""

    def uncommitted(self) -> None:
        """Amid a rebalance it has not taken a commit that was begun, or not all of it: it may be made again."""

    def revoking(self, partitions: Collection[int]) -> None:
        """These will not be ours when this returns: they can still be committed inside of it. Not every driver can
        say it before; where it has, `revoked` follows."""

    def revoked(self, partitions: Collection[int]) -> None:
        """These are not ours any more."""


class Consumer(Protocol):
    """A member of a consumer group, on one topic."""

    def poll(self, timeout_s: float, most: int = MOST_RECORDS) -> Mapping[int, Sequence[Record]]:
        """Records by partition, `most` of them at most; waits so long for the first. Keeps the membership."""

    def commit(self, offsets: Mapping[int, int]) -> bool:
        """Begin to commit for each partition the offset to go on from; `Listener.committed` tells of it. False where a
        rebalance is under way or over: then nothing will be, and what counts is whether the partition is still ours
        after the next poll. A commit of which nothing is heard may be made again."""

    def standing(self) -> Standing:
        """What a transaction commits offsets by."""

    def pause(self, partitions: Collection[int]) -> None:
        """Fetch and return nothing of these until they are resumed; those that are not ours are passed over."""

    def resume(self, partitions: Collection[int]) -> None:
        """Undo `pause`."""

    def joined(self) -> bool:
        """Whether it is a member in good standing, with partitions or without."""

    def missing(self) -> bool:
        """Whether the topic is known not to exist (any more). May ask the broker."""

    def lag(self) -> Mapping[int, int]:
        """By partition: how many offsets lie between what `poll` has returned and the end, as far as it is known."""

    def trouble(self) -> str:
        """Why no broker is connected, in a few words; empty while one is."""

    def close(self) -> None:
        """Disconnect; a static member stays in its group until its session ends."""


class Producer(Protocol):
    """Writes records, acknowledged by all replicas in sync; idempotent where nothing fails."""

    def send(self, record: Outgoing) -> None:
        """Take it, without doing anything yet; what becomes of it comes from `flush`."""

    def flush(self, timeout_s: float) -> list[Result]:
        """Send what was taken, wait so long for the broker; returns what is decided, each record once. The first record
        for a topic that nobody knows may take some seconds more. BrokerUnavailable: all that was taken still is."""

    def trouble(self) -> str:
        """As a consumer's."""

    def close(self) -> None:
        """Disconnect at once; what is not decided is lost."""


class Transactions(Protocol):
    """Writes records and commits the offsets of what they came from: all of it, or nothing of it."""

    due: float
    """For other threads: by when (clock.monotonic()) the library has to have come back from its call under way. If it
    has not by then, it never will."""

    def open(self) -> None:
        """Connect again, if the last one has failed, and undo what it had begun, for which readers wait. `run` does so,
        too. BrokerUnavailable and Fenced as there."""

    def run(self, records: Sequence[Outgoing], topic: str, offsets: Mapping[int, int], member: Any) -> list[Refused]:
        """One transaction; nothing is returned when it is committed. Else nothing was written or committed, and those
        are returned that were refused (perhaps others than are to blame: a broker refuses them by the batch).

        BrokerUnavailable, Rebalanced: nothing was written, all of it may be run again. BrokerRefused: it is not known
        what was, and only a new process can go on, from what the broker has. Fenced: another one has the id.
        """

    def trouble(self) -> str:
        """As a consumer's."""

    def close(self) -> None:
        """Disconnect at once."""


class Driver(Protocol):
    """A client library."""

    name: str

    def consumer(self, options: Options, topic: str, membership: Membership, listener: Listener) -> Consumer:
        """Connected, and a member as soon as it polls. BrokerUnavailable when no broker lets it in within seconds."""

    def producer(self, options: Options) -> Producer:
        """Connected. BrokerUnavailable as above."""

    def transactions(self, options: Options, transactional_id: str) -> Transactions:
        """Connected; who had the id before is fenced, and what it had begun is undone. BrokerUnavailable as above."""
