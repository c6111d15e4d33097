"""What a farm changes on a Kafka cluster: the topic of dead letters, and members that will not come back.

By kafka-python, whichever driver reads and writes: it is always there. Every call blocks for seconds at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient, errors
from kafka.admin import MemberToRemove, NewTopic

from atmo_farm.streams.kafka import kafka_python_client as client
from atmo_farm.streams.kafka.driver import BrokerRefused
from atmo_farm.streams.kafka.options import Options

ANY = -1
"""As the broker is set up."""


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


def topics(options: Options) -> set[str]:
    """Those that this user may see."""
    with _admin(options) as admin:
        return set(admin.list_topics())


def remove_member(options: Options, group: str, instance_id: str) -> bool:
    """Give the partitions of a static member that has gone for good to the others; whether it was one."""
    member = MemberToRemove(group_instance_id=instance_id)
    with _admin(options) as admin:
        removed = admin.remove_group_members(group, [member])
    return any(outcome is errors.NoError for outcome in removed.values())


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
