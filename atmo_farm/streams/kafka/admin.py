"""What a farm changes on a Kafka cluster: the topic of dead letters, and members that will not come back.

By kafka-python, whichever driver reads and writes: it is always there. Every call blocks for seconds at most.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from kafka import KafkaAdminClient, errors
from kafka.admin import MemberToRemove, NewTopic

from atmo_farm import clock
from atmo_farm.streams.kafka import kafka_python_client as client
from atmo_farm.streams.kafka.driver import BrokerRefused
from atmo_farm.streams.kafka.kafka_python_transactions import KafkaPythonTransactions
from atmo_farm.streams.kafka.options import Options

ANY = -1
"""As the broker is set up."""
COORDINATOR_S = 5.0


def ensure_topic(options: Options, topic: str, max_age_s: float | None = None) -> None:
    """Make it unless it is there, with one partition; its records are kept for `max_age_s`, else as long as the broker
    keeps any. BrokerRefused, with what to do, if that is not allowed."""
    settings = {} if max_age_s is None else {"retention.ms": str(round(max_age_s * 1000))}
    with _admin(options) as admin:
        try:
            admin.create_topics([NewTopic(topic, 1, ANY, topic_configs=settings)])
        except errors.TopicAlreadyExistsError:
            pass
        except errors.KafkaError as error:
            if topic not in admin.list_topics():
                why = client.reason(error, options)
                raise BrokerRefused(f"topic {topic!r} is not there and cannot be made ({why}): create it") from error


@attrs.frozen
class Topic:
    """What a user may know of a topic."""

    partitions: int
    rights: frozenset[str]
    """What the user may do with it, in Kafka's words: `READ`, `WRITE`, …"""


def topics(options: Options) -> dict[str, Topic]:
    """Those that this user may see."""
    with _admin(options) as admin:
        return {
            one["name"]: Topic(len(one["partitions"]), frozenset(one["authorized_operations"]))
            for one in admin.describe_topics()
        }


def may_create(options: Options, topic: str) -> str:
    """Why this user cannot make a topic that is not there; empty if it can. Nothing is made."""
    with _admin(options) as admin:
        try:
            admin.create_topics([NewTopic(topic, 1, ANY)], validate_only=True)
        except errors.TopicAlreadyExistsError:
            return ""
        except errors.AuthorizationError:
            return "not allowed"
        except errors.KafkaError as error:
            return client.reason(error, options)
    return ""


def may_transact(options: Options, transactional_id: str) -> bool:
    """Whether this user may have transactions under such an id; who has just this one is fenced by the question."""
    try:
        KafkaPythonTransactions(options, transactional_id).close()
    except BrokerRefused:
        return False
    return True


def may_join(options: Options, group: str) -> bool:
    """Whether this user may be a member of a consumer group; where the broker does not say it of one that is not there
    yet, it may."""
    with _admin(options) as admin:
        described = _described(admin, group)
    if described is None:
        return False
    return described["error"] is not None or "READ" in described["authorized_operations"]


def _described(admin: Any, group: str) -> Any:
    """None where the user may not even see it."""
    until = clock.monotonic() + COORDINATOR_S
    while True:
        try:
            return admin.describe_groups([group])[group]
        except errors.GroupAuthorizationFailedError:
            return None
        except errors.CoordinatorNotAvailableError:  # of a new cluster, for a moment
            if clock.monotonic() > until:
                raise
            time.sleep(0.1)


def remove_member(options: Options, group: str, instance_id: str) -> bool:
    """Give the partitions of a static member that has gone for good to the others; whether it was one."""
    member = MemberToRemove(group_instance_id=instance_id)
    with _admin(options) as admin:
        removed = admin.remove_group_members(group, [member])
    return any(outcome is errors.NoError for outcome in removed.values())


def committed(options: Options, group: str, topic: str) -> set[int]:
    """Partitions of which the group has committed something. What undecided transactions hold is not waited for."""
    with _admin(options) as admin:
        offsets = admin.list_group_offsets([group])[group]
        return {one.partition for one, found in offsets.items() if one.topic == topic and found.offset >= 0}


@contextmanager
def _admin(options: Options) -> Iterator[Any]:
    """A client for one job; the library's errors come out in the driver's terms."""
    admin, _ = client.connect(KafkaAdminClient, options)
    try:
        yield admin
    except errors.KafkaError as error:
        raise client.wrapped(error, options) from error
    finally:
        admin.close()
