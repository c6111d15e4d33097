"""What the owner's thread tells the stream."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from atmo_farm.errors import AtmoFarmError
from atmo_farm.streams.kafka.driver import Record, Refused, Result


class Ears(Protocol):
    """The stream's own; called on its loop."""

    def opened(self) -> None:
        """Connected, and the topic is there."""

    def joined(self) -> None:
        """A member of the group, with partitions or without."""

    def assigned(self, partitions: Collection[int]) -> None:
        """Ours from now on."""

    def revoking(self, partitions: Collection[int], finished: threading.Event) -> None:
        """Ours for a moment more: what is in hand may end and be committed, then `finished` is to be set."""

    def revoked(self, partitions: Collection[int]) -> None:
        """Not ours any more."""

    def records(self, polled: Mapping[int, Sequence[Record]]) -> None:
        """To be counted in `Owner.settled`, one by one, when they have ended or are dropped."""

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The broker has these."""

    def results(self, results: list[Result]) -> None:
        """What became of outputs."""

    def transacted(self, offsets: Mapping[int, int], refused: list[Refused]) -> None:
        """The transaction that was asked for has committed these, with the outputs; or, without any, it has not come to
        be, and these outputs were refused: if it is not one alone, some of them may only have been beside it."""

    def waiting(self, reason: str) -> None:
        """No broker, or no topic."""

    def connected(self) -> None:
        """There again."""

    def failed(self, error: AtmoFarmError) -> None:
        """It cannot go on, and has ended."""
