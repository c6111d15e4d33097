"""`atmo-farm check --connect` on a Kafka broker: topics, partitions, and what its user may do."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

from tests.farm import write_app
from tests.integration.test_cli_check import atmo_farm
from tests.kafka import create_topic
from tests.servers.kafka import KafkaServer
from tests.servers.kafka_files import PASSWORD, USER

AUTHORIZER = """
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""

DIRECTIVE = """connections:
  kafka:
    brokerAddress: {address}
    sasl: {{mechanism: SCRAM-SHA-256, username: {user}, password: env(CHECK_KAFKA)}}
handlers:
  - {{type: stream, source: kafka, name: a, resource: hidden, group: mine, steps: [{{fn: hello}}]}}
  - {{type: stream, source: kafka, name: b, resource: seen, group: mine, steps: [{{fn: hello}}], respondTo: read}}
  - {{type: stream, source: kafka, name: c, resource: read, group: theirs, workers: 3, steps: [{{fn: hello}}],
     deadLetter: {{resource: seen}}}}
  - {{type: stream, source: kafka, name: d, resource: read, group: mine, workers: 2, steps: [{{fn: hello}}],
     deadLetter: {{resource: made}}}}
  - {{type: stream, source: kafka, name: e, resource: read, group: mine, exactlyOnce: true, steps: [{{fn: hello}}],
     deadLetter: off}}
  - {{type: stream, source: kafka, name: f, resource: read, group: mine, exactlyOnce: true, steps: [{{fn: hello}}],
     deadLetter: off}}
"""


DEAD = (
    "connections.kafka: topic 'com.example.test.{}.dead', for dead letters, is not there and cannot be made "
    "(not allowed); create it"
)


def allow(
    server: KafkaServer,
    operation: ACLOperation,
    type_: ResourceType,
    name: str,
    kind: ACLResourcePatternType = ACLResourcePatternType.LITERAL,
) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=server.address())) as admin:
        pattern = ResourcePattern(type_, name, kind)
        admin.create_acls([ACL(f"User:{USER}", "*", operation, ACLPermissionType.ALLOW, pattern)])


def test_each_right_that_is_missing_is_named(tmp_path: Path, start_kafka: Callable[[str], KafkaServer]) -> None:
    """With the handler that needs it: topics that cannot be seen, read or written, groups, and idle workers."""
    server = start_kafka(AUTHORIZER)
    for name, partitions in (("hidden", 1), ("seen", 1), ("read", 2)):
        create_topic(server, name, partitions)
    allow(server, ACLOperation.DESCRIBE, ResourceType.TOPIC, "seen")
    allow(server, ACLOperation.READ, ResourceType.TOPIC, "read")
    allow(server, ACLOperation.READ, ResourceType.GROUP, "mine")
    allow(server, ACLOperation.CREATE, ResourceType.TOPIC, "made")
    prefix = "com.example.test.f."
    allow(server, ACLOperation.WRITE, ResourceType.TRANSACTIONAL_ID, prefix, ACLResourcePatternType.PREFIXED)
    text = DIRECTIVE.format(address=server.address("SASL_PLAINTEXT"), user=USER)
    app = write_app(tmp_path / "app", text, ("c", "hello"))

    done = atmo_farm("check", "--connect", "--json", cwd=app, CHECK_KAFKA=PASSWORD)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["problems"]
    told = {(one["key"].removeprefix("handlers: "), one["severity"], one["message"]) for one in found}
    assert {one for one in told if len(one[0]) == 1} == {
        ("a", "error", "connections.kafka has no topic 'hidden', or this user may not see it; create it"),
        ("b", "error", "connections.kafka: 'atmo' may not read topic 'seen'; grant it"),
        ("b", "error", "connections.kafka: 'atmo' may not write topic 'read'; grant it"),
        ("c", "error", "connections.kafka: 'atmo' may not read with consumer group 'theirs'; grant it"),
        ("c", "error", "connections.kafka: 'atmo' may not write topic 'seen', for dead letters; grant it"),
        ("a", "error", DEAD.format("a")),
        ("b", "error", DEAD.format("b")),
        (
            "e",
            "error",
            "connections.kafka: 'atmo' may not write transactional ids that begin with 'com.example.test.e.'; grant it",
        ),
        (
            "c",
            "warning",
            "3 workers, and topic 'read' has 2 partitions: a worker without a partition has nothing to do",
        ),
    }
    lines = {one["key"]: one["line"] for one in found}
    assert (lines["handlers: a"], lines["handlers: c"]) == (9, 11)
    assert PASSWORD not in done.stdout + done.stderr
