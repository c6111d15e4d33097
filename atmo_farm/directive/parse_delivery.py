"""How a handler's messages are delivered: JetStream, order, dead letters; the rules between these keys."""

from __future__ import annotations

import datetime
from typing import Literal, cast

import attrs

from atmo_farm.directive import resources
from atmo_farm.directive.model import DeadLetter, Handler, JetStream
from atmo_farm.directive.parse_respond_to import own_resource, target_problem
from atmo_farm.directive.report import Report, shown
from atmo_farm.directive.section import Section
from atmo_farm.errors import Position
from atmo_farm.settings import HandlerDefaults

_LEAST_PENDING = 1000
"""Messages that a consumer without an order may have out, however few a worker runs at once."""


def subjects(section: Section, resource: str) -> tuple[str, ...]:
    """All that the handler listens to."""
    jetstream = section.section("jetstream")
    several = jetstream.get("filterSubjects", ()) if jetstream else ()
    return several or ((resource,) if resource else ())


def check(section: Section, source: str, resource: str, defaults: HandlerDefaults, report: Report) -> None:
    """The rules between the keys of delivery, also of a handler that is wrong elsewhere."""
    _check_durable(section, source, report)
    _check_filters(section.section("jetstream"), resource, report)
    _check_ordering(section, source, defaults, report)
    _check_output(section, report)


def with_delivery(handler: Handler, section: Section, identifier: str, report: Report) -> Handler:
    """The handler, its limits and its group filled in, with all that says how it is delivered."""
    ordering: Literal["none", "partition", "key"] = "partition" if handler.source == "kafka" else "none"
    handler = attrs.evolve(
        handler,
        output=section.get("output", handler.output),
        ordering=section.get("ordering", ordering),
        ordering_key=section.text("orderingKey"),
        idempotent=section.get("idempotent", False),
        exactly_once=section.get("exactlyOnce", False),
        start_at=_start_at(section.text("startAt")),
    )
    jetstream = _jetstream(handler, section) if handler.source == "nats" and uses_jetstream(section) else None
    return attrs.evolve(
        handler,
        jetstream=jetstream,
        group=jetstream.durable if jetstream else handler.group,
        dead_letter=_dead_letter(handler, section, identifier, report),
    )


def uses_jetstream(section: Section) -> bool:
    """Whether it asks for a durable consumer."""
    return section.section("jetstream") is not None or bool(section.text("durable"))


def durable_place(section: Section) -> tuple[Position, str]:
    """Where the durable's name is written, and its key path."""
    jetstream = section.section("jetstream")
    if jetstream and jetstream.text("durable") and not section.text("durable"):
        return jetstream.at("durable"), jetstream.key("durable")
    return section.at("durable"), section.key("durable")


def _start_at(given: str) -> Literal["earliest", "latest"] | float:
    if given in ("", "earliest", "latest"):
        return cast(Literal["earliest", "latest"], given or "latest")
    return datetime.datetime.fromisoformat(given).timestamp()


def _jetstream(handler: Handler, section: Section) -> JetStream:
    keys = section.section("jetstream") or Section("", handler.position)
    if handler.ordering == "none":
        pending = max(_LEAST_PENDING, 2 * handler.max_in_flight * handler.workers)
    else:
        pending = handler.max_in_flight
    return JetStream(
        durable=section.text("durable") or keys.text("durable") or handler.group,
        max_ack_pending=keys.get("maxAckPending", pending),
        stream=keys.text("stream"),
        deliver_policy=keys.get("deliverPolicy", "all"),
        ack_wait_s=keys.get("ackWait", 30.0),
        filter_subjects=keys.get("filterSubjects", ()),
    )


def _dead_letter(handler: Handler, section: Section, identifier: str, report: Report) -> DeadLetter | None:
    given = section.find("deadLetter")
    if handler.source not in ("nats", "kafka") or given == "off" or section.is_wrong("deadLetter"):
        return None
    keys = given if isinstance(given, Section) else Section("", handler.position)
    if handler.source == "nats":
        target = f"atmo.dead.{identifier}.{handler.name}"
    else:
        target = f"{identifier}.{handler.name}.dead"
    if keys.text("resource"):
        target, at, key = keys.text("resource"), keys.at("resource"), keys.key("resource")
    else:
        name = "deadLetter" if section.is_written("deadLetter") else "resource"
        at, key = section.at(name), section.key(name)
    problem = target_problem(handler.source, target) if keys.text("resource") else ""
    own = own_resource(handler.source, subjects(section, handler.resource), target)
    if own and not problem:
        problem = (
            f"its dead letters would come back to the handler itself, which gets {shown(own)}; write another "
            "`deadLetter.resource`, or `deadLetter: off`"
        )
    if problem:
        report.error(at, key, f"{shown(target)}: {problem}")
    return DeadLetter(target, keys.find("maxAge"))


def _check_durable(section: Section, source: str, report: Report) -> None:
    """One name for the consumer, and no group beside it."""
    jetstream = section.section("jetstream")
    if jetstream and jetstream.text("durable") and section.text("durable") not in ("", jetstream.text("durable")):
        places = [(section.at("durable"), section.key("durable")), (jetstream.at("durable"), jetstream.key("durable"))]
        report.error(*max(places), "`durable` and `jetstream.durable` name the same consumer; keep one")
    if not section.text("group"):
        return
    is_off = section.text("group") == "off"
    if source == "kafka" and is_off:
        message = "`off` is for core NATS only; a group keeps the place in the topic"
        report.error(section.at("group"), section.key("group"), message)
    elif uses_jetstream(section):
        name = "durable" if section.text("durable") else "jetstream"
        places = [(section.at(one), section.key(one)) for one in ("group", name)]
        off = "`group: off` is for core NATS only; a durable keeps one place in the stream for all"
        named = "a JetStream handler's group is its durable; write the name as `durable`, and no `group`"
        report.error(*max(places), off if is_off else named)


def _check_filters(jetstream: Section | None, resource: str, report: Report) -> None:
    """Each inside of the resource, and none of them twice: the server refuses consumers whose filters overlap."""
    filters: tuple[str, ...] = jetstream.get("filterSubjects", ()) if jetstream else ()
    if jetstream is None or not filters:
        return
    at, key = jetstream.at("filterSubjects"), jetstream.key("filterSubjects")
    for index, subject in enumerate(filters):
        if resource and not resources.subject_matches(resource, subject):
            report.error(at, key, f"{shown(subject)} is not inside of the handler's `resource`, {shown(resource)}")
        for other in filters[:index]:
            if resources.subjects_overlap(other, subject):
                report.error(at, key, f"{shown(other)} and {shown(subject)} overlap; a message would come twice")


def _check_output(section: Section, report: Report) -> None:
    if not section.is_written("output"):
        return
    answer = section.find("respondTo")
    problem = ""
    if not section.is_written("respondTo"):
        problem = "needs `respondTo` beside it"
    elif isinstance(answer, Section) and answer.text("source") == "kafka":
        problem = "has a meaning only for a `respondTo` of NATS"
    elif section.text("output") == "stream" and not uses_jetstream(section):
        problem = "`stream` needs `durable` beside it; a handler of core NATS answers by core NATS"
    if problem:
        report.error(section.at("output"), section.key("output"), problem)


def _check_ordering(section: Section, source: str, defaults: HandlerDefaults, report: Report) -> None:
    def wrong(name: str, message: str) -> None:
        report.error(section.at(name), section.key(name), message)

    jetstream = section.section("jetstream")
    ordering = section.text("ordering")
    if ordering in ("partition", "key"):
        in_flight = section.get("maxInFlight", defaults.max_in_flight)
        if source == "nats" and not uses_jetstream(section):
            wrong("ordering", "core NATS keeps no order; use `durable`, or `ordering: none`")
        elif source == "nats" and section.get("workers", defaults.workers) != 1:
            wrong("ordering", "on JetStream an order needs `workers: 1`")
        elif jetstream and jetstream.get("maxAckPending", 1) > in_flight:
            message = f"on JetStream an order needs `maxAckPending` of at most `maxInFlight`, {in_flight}"
            report.error(jetstream.at("maxAckPending"), jetstream.key("maxAckPending"), message)
    if ordering == "key" and source == "nats" and not section.is_written("orderingKey"):
        wrong("ordering", "`ordering: key` needs `orderingKey` beside it")
    if section.text("orderingKey") and ordering != "key":
        wrong("orderingKey", "needs `ordering: key` beside it")
