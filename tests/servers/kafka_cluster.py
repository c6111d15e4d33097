"""Three brokers: one that is the controller and never ends, and two that may be killed in turn and hold everything."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from tests.servers.kafka import KafkaServer

_REPLICATED = """
offsets.topic.replication.factor=2
transaction.state.log.replication.factor=2
default.replication.factor=2
"""
COORDINATORS = ("__consumer_offsets", "__transaction_state")
IN_SYNC_WITHIN_S = 60.0


class KafkaCluster:
    """Every topic has two replicas; those by which groups and transactions are coordinated have them on the two."""

    def __init__(self, folder: Path) -> None:
        self.first = KafkaServer(folder / "1", _REPLICATED)
        """Clients begin here."""
        self._others = [
            KafkaServer(folder / str(number), _REPLICATED, first=self.first, number=number) for number in (2, 3)
        ]

    def __enter__(self) -> Self:
        """Returns when all three serve."""
        topics = [
            NewTopic(name, -1, -1, replica_assignments={0: [2, 3]}, topic_configs={"cleanup.policy": "compact"})
            for name in COORDINATORS
        ]
        try:
            for server in (self.first, *self._others):
                server.start()
            with closing(self._admin()) as admin:
                admin.create_topics(topics)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in (*self._others, self.first):
            server.stop()

    def coordinator(self) -> KafkaServer:
        """The one of the two that coordinates transactions now."""
        leader = self._topics()[COORDINATORS[1]][0]["leader_id"]
        return next(server for server in self._others if server.number == leader)

    def wait_in_sync(self) -> None:
        """Returns when every partition has all of its replicas: then any one may be killed."""
        deadline = time.monotonic() + IN_SYNC_WITHIN_S
        while any(
            len(one["isr_nodes"]) < len(one["replica_nodes"]) for topic in self._topics().values() for one in topic
        ):
            assert time.monotonic() < deadline, self._topics()
            time.sleep(0.05)

    def _topics(self) -> Mapping[str, Any]:
        with closing(self._admin()) as admin:
            return {topic["name"]: topic["partitions"] for topic in admin.describe_topics()}

    def _admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.first.address())
