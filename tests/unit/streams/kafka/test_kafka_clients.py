"""What is committed, and when again: the owner's clients on a driver that only takes notes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

from atmo_farm.streams.kafka.clients import Clients
from atmo_farm.streams.kafka.driver import Driver, Listener
from atmo_farm.streams.kafka.ears import Ears
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.options import Options


class Notes:
    """A driver and its consumer: which commits were begun."""

    def __init__(self) -> None:
        self.begun: list[Mapping[int, int]] = []
        self.listener: Listener | None = None

    def consumer(self, _options: Options, _topic: str, _membership: Membership, listener: Listener) -> Notes:
        self.listener = listener
        return self

    def commit(self, offsets: Mapping[int, int]) -> bool:
        self.begun.append(offsets)
        return True

    def missing(self) -> bool:
        return False

    def nothing(self, *_: object) -> None:
        """What is told to nobody."""

    def __getattr__(self, _name: str) -> Any:
        return self.nothing


def opened(ours: Collection[int]) -> tuple[Clients, Notes]:
    notes = Notes()
    driver, options, ears = cast(Driver, notes), cast(Options, None), cast(Ears, notes)
    clients = Clients(driver, options, "topic", Membership("group"), ears, notes.nothing, notes.nothing, None)
    clients.open()
    clients.assigned(ours)
    return clients, notes


def test_what_the_broker_has_is_what_was_asked_for_last() -> None:
    """Also when the library carries out an older commit after it."""
    clients, notes = opened({0})
    clients.commit({0: 10})
    assert clients.settle() and notes.begun == [{0: 10}]
    clients.commit({0: 20})
    clients.committed({0: 20})
    assert not clients.settle(), "all is committed"
    clients.committed({0: 10})
    assert clients.settle() and notes.begun == [{0: 10}, {0: 20}]
    clients.committed({0: 20})
    assert not clients.settle()


def test_a_partition_that_is_not_ours_is_nobodys_to_commit() -> None:
    """The loop may ask for it before it hears that it has gone."""
    clients, notes = opened({0, 1})
    clients.commit({0: 10})
    clients.revoked({0})
    clients.commit({0: 20, 1: 5})
    assert clients.settle() and notes.begun == [{1: 5}]
    clients.committed({0: 10, 1: 5})
    assert not clients.settle()
