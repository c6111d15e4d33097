"""Kafka: one adapter (`stream`), one thread that owns the clients (`owner`), thin drivers (`driver`)."""
