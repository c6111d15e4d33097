"""`handlers`: from sections to the model."""

from __future__ import annotations

import re
from itertools import islice
from typing import Literal, cast

import attrs

from atmo_farm.directive import parse_delivery, resources, served
from atmo_farm.directive.keys.handlers import HANDLER, STREAM_SOURCES
from atmo_farm.directive.model import Handler, RespondTo
from atmo_farm.directive.parse_limits import with_limits
from atmo_farm.directive.parse_respond_to import Brokers, respond_to
from atmo_farm.directive.parse_steps import Functions, steps
from atmo_farm.directive.report import Report, listed, nearest, shown
from atmo_farm.directive.section import Section
from atmo_farm.settings import HandlerDefaults

_NAME_LENGTH = 64


@attrs.frozen
class Surroundings:
    """What a handler may refer to."""

    identifier: str
    functions: Functions
    brokers: Brokers
    defaults: HandlerDefaults


def handlers(sections: tuple[Section, ...], around: Surroundings, report: Report) -> tuple[Handler, ...]:
    """All handlers that could be read; names and routes are checked against each other."""
    result: list[Handler] = []
    names: dict[str, int] = {}
    routes: dict[str, resources.Routes] = {}
    durables: dict[tuple[str, str, str], int] = {}
    for section in sections:
        handler = _handler(section, around, report)
        name = handler.name if handler else section.text("name")
        if name in names:
            own = "is taken" if section.is_written("name") else "is also this one's by default; give it a `name`"
            message = f"the handler name `{name}` {own}; the other is on line {names[name]}"
            report.error(section.at("name"), section.key("name"), message)
        elif name:
            names[name] = section.position.line
        if handler is None:
            continue
        if handler.source in ("", "server"):
            method = handler.method or "GET"
            conflict = routes.setdefault(method, resources.Routes()).add(handler.resource)
            if conflict:
                same = "is there already" if conflict == handler.resource else f"cannot stand beside {shown(conflict)}"
                message = f"the route {method} {shown(handler.resource)} {same}"
                report.error(section.at("resource"), section.key("resource"), message)
        if handler.jetstream:
            at, key = parse_delivery.durable_place(section)
            consumer = (handler.connection, handler.jetstream.stream, handler.jetstream.durable)
            if consumer in durables:
                message = f"the durable `{consumer[2]}` is that of line {durables[consumer]} too"
                report.error(at, key, f"{message}: each handler would get a part of the messages")
            durables.setdefault(consumer, at.line)
        result.append(handler)
    return tuple(result)


def _handler(section: Section, around: Surroundings, report: Report) -> Handler | None:
    type_ = cast(Literal["request", "stream"] | None, section.find("type"))
    state: set[str] = set()
    sequence = steps(section, around.functions, state, report)
    _check_response(section, state, report)
    source = _source(section, type_, around.brokers, report)
    if type_ is None or source is None:
        return None
    resource = _resource(section, type_, source, report)
    connection = around.brokers.connection(section, source, report)
    _check_keys_of_source(section, source or "request", report)
    parse_delivery.check(section, source, resource, around.defaults, report)
    subjects = parse_delivery.subjects(section, resource)
    answer = respond_to(section, source, connection, subjects, around.brokers, report)
    _check_exactly_once(section, source, connection, answer, report)
    served.check_handler(section, type_, source, report)
    name = _name(section, type_, source, resource, report)
    if not resource or not name:
        return None
    handler = Handler(
        name=name,
        type=type_,
        source=source,
        resource=resource,
        steps=sequence,
        method=section.text("method"),
        response=section.text("response"),
        respond_to=answer,
        connection=connection,
        group=section.text("group") or f"{around.identifier.replace('.', '_')}__{name}",
        envelope=section.get("envelope", "auto"),
        position=section.position,
    )
    handler = with_limits(handler, section, around.defaults, report)
    return parse_delivery.with_delivery(handler, section, around.identifier, report)


def _check_exactly_once(
    section: Section, source: str, connection: str, answer: RespondTo | None, report: Report
) -> None:
    """A transaction is one cluster's."""
    if section.get("exactlyOnce", False) and answer and (answer.source, answer.connection) != (source, connection):
        message = "needs a `respondTo` of the connection that the messages come from"
        report.error(section.at("exactlyOnce"), section.key("exactlyOnce"), message)


def _source(
    section: Section, type_: str | None, brokers: Brokers, report: Report
) -> Literal["", "server", "nats", "kafka"] | None:
    """The source with its default; None when it is wrong or misspelt: the default would make other keys wrong."""
    given = section.text("source")
    unknown = (name for name in section.places if name not in HANDLER.by_name)
    if section.is_wrong("source") or any(nearest(name, HANDLER.by_name) == "source" for name in islice(unknown, 10)):
        return None
    if type_ == "request":
        if given not in ("", "server"):
            report.error(section.at("source"), section.key("source"), "only a handler of type `stream` has a source")
        return ""
    source = given or "server"
    if source == "server":
        return "server"
    if source not in ("nats", "kafka"):
        near = report.hint(source, STREAM_SOURCES)
        message = f"{shown(source)} is not one of {listed(STREAM_SOURCES)}{near}"
        report.error(section.at("source"), section.key("source"), message)
        return None
    if not brokers.has(source):
        message = f"`connections.{source}` is not set; write where it is there"
        report.error(section.value_at("source"), section.key("source"), message)
    return cast(Literal["nats", "kafka"], source)


def _resource(section: Section, type_: str, source: str, report: Report) -> str:
    """The resource; empty when it is not set or not legal for the source."""
    resource = section.text("resource")
    if type_ == "request":
        if not section.is_written("method"):
            report.error(section.at("method"), section.key("method"), "is missing: a request handler needs a `method`")
    elif section.text("method"):
        report.warn(section.at("method"), section.key("method"), "has no meaning for a stream")
    if not resource:
        return ""
    check = {"nats": resources.subject_problem, "kafka": resources.topic_problem}.get(source, resources.path_problem)
    problem = check(resource)
    if problem:
        report.error(section.at("resource"), section.key("resource"), f"{shown(resource)}: {problem}")
        return ""
    return resource


def _name(section: Section, type_: str, source: str, resource: str, report: Report) -> str:
    """The handler's identity. Requests have the method in it, because one path is often served for several."""
    if section.is_written("name") or not resource:
        return section.text("name")
    kind = f"request-{section.text('method')}" if type_ == "request" else source
    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{kind}-{resource}")
    if len(name) > _NAME_LENGTH:
        message = f"the name made from source and resource is over {_NAME_LENGTH} characters; give it a `name`"
        report.error(section.position, section.key("name"), message)
        return ""
    return name


def _check_response(section: Section, state: set[str], report: Report) -> None:
    response = section.text("response")
    last = next(reversed(section.sections("steps")), None)
    if response and response not in state:
        near = report.hint(response, state, "they set")
        report.error(section.value_at("response"), section.key("response"), f"no step sets {shown(response)}{near}")
    elif last and last.is_written("group") and not last.is_written("fn") and not section.is_written("response"):
        report.error(last.position, last.path, "the last step is a group: `response` must say whose result counts")


def _check_keys_of_source(section: Section, source: str, report: Report) -> None:
    for name in section:
        only = HANDLER.by_name[name].sources
        if only and source not in only:
            where = " and ".join(f"`{one}`" for one in only)
            report.error(section.at(name), section.key(name), f"has a meaning only for streams with source {where}")
