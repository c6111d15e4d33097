"""What tests of the Kafka drivers share: clients of one driver on the run's broker."""

from __future__ import annotations

import attrs

from atmo_farm.streams.kafka.driver import Consumer, Driver, Outgoing, Producer, Transactions
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.options import Options, options
from tests.kafka import Rebalances, new_name
from tests.servers.kafka import KafkaServer


@attrs.frozen
class Clients:
    """Makes clients of one driver on the run's broker, and closes them."""

    driver: Driver
    server: KafkaServer
    made: list[Consumer | Producer | Transactions] = attrs.field(factory=list)

    def options(self, **keys: object) -> Options:
        """Of the plain listener, or what `KafkaServer.connection` makes of the keys."""
        return options(self.server.connection(**keys), "tests")  # type: ignore[arg-type]

    def consumer(
        self,
        topic: str,
        group: str = "",
        listener: Rebalances | None = None,
        start_at: object = "earliest",
        instance_id: str = "",
        session_timeout_s: float = 6.0,
    ) -> Consumer:
        """A member of a group, of one of its own unless it is given."""
        membership = Membership(group or new_name("group"), instance_id, start_at, session_timeout_s)  # type: ignore[arg-type]
        consumer = self.driver.consumer(self.options(), topic, membership, listener or Rebalances())
        self.made.append(consumer)
        return consumer

    def producer(self) -> Producer:
        """A producer."""
        producer = self.driver.producer(self.options())
        self.made.append(producer)
        return producer

    def transactions(self, transactional_id: str = "") -> Transactions:
        """Of an id of its own unless one is given."""
        transactions = self.driver.transactions(self.options(), transactional_id or new_name("transactions"))
        self.made.append(transactions)
        return transactions


def outgoing(topic: str, value: bytes, key: bytes | None = None, **headers: bytes) -> Outgoing:
    return Outgoing(topic, key, value, list(headers.items()), token=value[:10])
