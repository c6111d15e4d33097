"""Which stream a handler consumes from, by its source and its keys, and where its outputs go if that is elsewhere."""

from __future__ import annotations

from atmo_farm.consumer.context import ChildContext
from atmo_farm.consumer.place import Place
from atmo_farm.directive.model import Handler
from atmo_farm.streams.base import Stream, StreamEvents, Target
from atmo_farm.streams.jetstream import JetStreamStream
from atmo_farm.streams.nats import NatsStream
from atmo_farm.streams.nats_target import NatsTarget


def stream_of(context: ChildContext, identity: str, events: StreamEvents) -> Stream:
    """Not open yet; CannotStart says what of its connection cannot be used. `identity`: `<identifier>.<handler>`."""
    handler, directive = context.handler, context.directive
    name = _client_name(context)
    if handler.source == "kafka":
        return _kafka(context, identity, name, events)
    connection = directive.connections.nats[handler.connection]
    if handler.jetstream is not None:
        return JetStreamStream(connection, handler, whom=identity, client_name=name, events=events)
    return NatsStream(
        connection,
        handler.resource,
        group=None if handler.group == "off" else handler.group,
        client_name=name,
        events=events,
        envelope=handler.envelope,
        dead_letter=handler.dead_letter,
        whom=identity,
    )


def has_target(handler: Handler) -> bool:
    """Whether outputs go to another connection than messages come from."""
    answer = handler.respond_to
    return answer is not None and (answer.source, answer.connection) != (handler.source, handler.connection)


def target_of(context: ChildContext, events: StreamEvents) -> Target:
    """Of a handler that has one; not open yet. CannotStart as above."""
    handler, connections = context.handler, context.directive.connections
    answer, name = handler.respond_to, f"{_client_name(context)}/out"
    assert answer is not None
    if answer.source == "nats":
        return NatsTarget(connections.nats[answer.connection], handler, client_name=name, events=events)
    from atmo_farm.streams.kafka.stream import KafkaStream

    connection = connections.kafka[answer.connection]
    return KafkaStream(connection, "", membership=None, client_id=name, events=events, envelope=handler.envelope)


def _client_name(context: ChildContext) -> str:
    return f"atmo-farm/{context.directive.identifier}/{context.handler.name}/{context.worker}"


def _kafka(context: ChildContext, identity: str, name: str, events: StreamEvents) -> Stream:
    from atmo_farm.streams.kafka.membership import Membership, static_id
    from atmo_farm.streams.kafka.stream import KafkaStream

    handler, directive = context.handler, context.directive
    static = static_id(directive.identifier, handler.name, context.instance, context.worker)
    return KafkaStream(
        directive.connections.kafka[handler.connection],
        handler.resource,
        membership=Membership(
            handler.group, static, handler.start_at, transactional_id=static if handler.exactly_once else ""
        ),
        client_id=name,
        events=events,
        envelope=handler.envelope,
        max_in_flight=handler.max_in_flight,
        ordered=handler.ordering != "none",
        dead_letter=handler.dead_letter,
        whom=identity,
        place=Place(context, events.waiting),
    )
