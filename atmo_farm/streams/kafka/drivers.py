"""Which client library serves a connection."""

from __future__ import annotations

import importlib.util

from atmo_farm.errors import CannotStart
from atmo_farm.streams.kafka.driver import Consumer, Driver, Listener, Producer, Transactions
from atmo_farm.streams.kafka.kafka_python_consumer import KafkaPythonConsumer
from atmo_farm.streams.kafka.kafka_python_producer import KafkaPythonProducer
from atmo_farm.streams.kafka.kafka_python_transactions import KafkaPythonTransactions
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

    def transactions(self, options: Options, transactional_id: str) -> Transactions:
        """As the protocol says."""
        return KafkaPythonTransactions(options, transactional_id)


class Librdkafka:
    """`driver.Driver`: the C library, there with the extra `librdkafka`; for a tenth of the CPU time."""

    name = "librdkafka"

    def consumer(self, options: Options, topic: str, membership: Membership, listener: Listener) -> Consumer:
        """As the protocol says."""
        from atmo_farm.streams.kafka.librdkafka_consumer import LibrdkafkaConsumer

        return LibrdkafkaConsumer(options, topic, membership, listener)

    def producer(self, options: Options) -> Producer:
        """As the protocol says."""
        from atmo_farm.streams.kafka.librdkafka_producer import LibrdkafkaProducer

        return LibrdkafkaProducer(options)

    def transactions(self, options: Options, transactional_id: str) -> Transactions:
        """As the protocol says."""
        from atmo_farm.streams.kafka.librdkafka_transactions import LibrdkafkaTransactions

        return LibrdkafkaTransactions(options, transactional_id)


def choose(name: str) -> Driver:
    """The driver that `connections.kafka.driver` names, for `auto` the faster one that is there; CannotStart for one
    that is not."""
    there = importlib.util.find_spec("confluent_kafka") is not None
    if name == Librdkafka.name and not there:
        raise CannotStart("the Kafka driver librdkafka is not installed: pip install 'atmo-farm[librdkafka]'")
    return Librdkafka() if there and name in ("auto", Librdkafka.name) else KafkaPython()
