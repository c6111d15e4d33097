"""A confluent-kafka loop in one process: `python -m benchmarks.baselines.librdkafka_loop ADDRESS TOPIC`.

It takes up to 256 records, writes `hello, <value>` for each to out.TOPIC with acks=all, flushes once and commits once
for them. Prints `ready` once it has its partition.
"""

from __future__ import annotations

import sys
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer

WINDOW = 256


def main(address: str, topic: str) -> None:
    """Serve until killed."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    producer = Producer({"bootstrap.servers": address, "acks": "all", "enable.idempotence": True, "linger.ms": 0})
    output = f"out.{topic}"
    failed: list[Any] = []

    def delivered(error: Any, _message: Any) -> None:
        if error is not None:
            failed.append(error)

    consumer.subscribe([topic])
    while not consumer.assignment():
        consumer.poll(0.1)
    print("ready", flush=True)
    while True:
        first = consumer.poll(0.5)  # `consume` would wait all of its time for a full window
        if first is None:
            continue
        for message in (first, *consumer.consume(WINDOW - 1, 0)):
            if message.error() is not None:
                raise KafkaException(message.error())
            producer.produce(output, b"hello, " + message.value(), message.key(), on_delivery=delivered)
        producer.flush()
        if failed:
            raise KafkaException(failed[0])
        consumer.commit(asynchronous=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
