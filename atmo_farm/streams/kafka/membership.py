"""What makes a process a member of a consumer group."""

from __future__ import annotations

from typing import Literal, Protocol

import attrs

HEARTBEATS = 10
"""So many in one session timeout, of kafka-python: a member learns by the next one of a rebalance, and joins again.
librdkafka has four: with ten, its members were lost more often over an outage."""


def static_id(identifier: str, handler: str, instance: str, worker: int) -> str:
    """A worker's `group.instance.id`: the same after each respawn. `instance` is the farm's own, so no other has it."""
    return f"{identifier}.{handler}.{instance}.{worker}"


@attrs.frozen
class Membership:
    """Of one worker of one handler."""

    group: str
    instance_id: str = ""
    """Kafka's `group.instance.id`: a process that comes back with it within the session timeout finds its partitions,
    nothing is rebalanced. Empty: a member that leaves when it closes."""
    start_at: Literal["earliest", "latest"] | float = "latest"
    """Where a partition begins for which the group has committed nothing; a number is seconds since 1970."""
    session_timeout_s: float = 10.0
    transactional_id: str = ""
    """Outputs and offsets go in transactions with this id, one process after the other; empty: there are none."""


class Place(Protocol):
    """What one process after the other has of a static member."""

    async def take(self) -> None:
        """Returns when no other process has it."""

    def is_wanted(self) -> bool:
        """Whether another process waits for it."""
