"""A kafka-python loop in one process: `python -m benchmarks.baselines.kafka_python_loop ADDRESS TOPIC`.

It polls up to 256 records, writes `hello, <value>` for each to out.TOPIC with acks=all, flushes once and commits once
for them. Tuned by what counts for this library: the package crc32c, batches larger than what is between two flushes,
no metrics. Prints `ready` once it has its partition.
"""

from __future__ import annotations

import sys

from kafka import KafkaConsumer, KafkaProducer

WINDOW = 256
BATCH_BYTES = 128 << 10


def main(address: str, topic: str) -> None:
    """Serve until killed."""
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=address,
        group_id=topic,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_poll_records=WINDOW,
        metrics_enabled=False,
    )
    producer = KafkaProducer(bootstrap_servers=address, acks="all", batch_size=BATCH_BYTES, metrics_enabled=False)
    output = f"out.{topic}"
    while not consumer.assignment():
        consumer.poll(timeout_ms=100)
    print("ready", flush=True)
    while True:
        for records in consumer.poll(timeout_ms=500).values():
            sent = [producer.send(output, b"hello, " + one.value, one.key) for one in records]
            producer.flush()
            for future in sent:
                if future.exception is not None:
                    raise future.exception
            consumer.commit()


if __name__ == "__main__":
    main(*sys.argv[1:])
