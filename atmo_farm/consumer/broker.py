"""Which stream a handler consumes from, by its source and its keys."""

from __future__ import annotations

from atmo_farm.consumer.context import ChildContext
from atmo_farm.consumer.place import Place
from atmo_farm.streams.base import Stream, StreamEvents
from atmo_farm.streams.jetstream import JetStreamStream
from atmo_farm.streams.nats import NatsStream


def stream_of(context: ChildContext, identity: str, events: StreamEvents) -> Stream:
    """Not open yet; CannotStart says what of its connection cannot be used. `identity`: `<identifier>.<handler>`."""
    handler, directive = context.handler, context.directive
    name = f"atmo-farm/{directive.identifier}/{handler.name}/{context.worker}"
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


def _kafka(context: ChildContext, identity: str, name: str, events: StreamEvents) -> Stream:
    from atmo_farm.streams.kafka.membership import Membership, static_id
    from atmo_farm.streams.kafka.stream import KafkaStream

    handler, directive = context.handler, context.directive
    static = static_id(directive.identifier, handler.name, context.instance, context.worker)
    return KafkaStream(
        directive.connections.kafka[handler.connection],
        handler.resource,
        membership=Membership(handler.group, static, handler.start_at),
        client_id=name,
        events=events,
        envelope=handler.envelope,
        max_in_flight=handler.max_in_flight,
        ordered=handler.ordering != "none",
        dead_letter=handler.dead_letter,
        whom=identity,
        place=Place(context, events.waiting),
    )
