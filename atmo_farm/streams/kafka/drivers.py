"""Which client library serves a connection."""

from __future__ import annotations

from atmo_farm.errors import CannotStart
from atmo_farm.streams.kafka.driver import Consumer, Driver, Listener, Producer
from atmo_farm.streams.kafka.kafka_python_consumer import KafkaPythonConsumer
from atmo_farm.streams.kafka.kafka_python_producer import KafkaPythonProducer
from atmo_farm.streams.kafka.membership import Membership
from atmo_farm.streams.kafka.options import Options


class KafkaPython:
    """`driver.Driver`: pure Python, always there."""

    name = "kafka-python"

    def consumer(self, options: Options, topic: str, membership: Membership, listener: Listener) -> Consumer:
        """As the protocol says."""
        return KafkaPythonConsumer(options, topic, membership, listener)

    def producer(self, options: Options) -> Producer:
        """As the protocol says."""
        return KafkaPythonProducer(options)


def choose(name: str) -> Driver:
    """The driver that `connections.kafka.driver` names; CannotStart for one that is not there."""
    if name in ("auto", KafkaPython.name):
        return KafkaPython()
    raise CannotStart(f"the Kafka driver {name!r} is not served by this build")
