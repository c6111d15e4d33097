"""Where handlers publish: `respondTo`, and the connections that it and `connection` name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, cast

import attrs

from atmo_farm.directive import resources
from atmo_farm.directive.model import RespondTo
from atmo_farm.directive.report import Report, listed, shown
from atmo_farm.directive.section import Section


@attrs.frozen
class Brokers:
    """The names of the connections that the file holds, right or wrong."""

    names: Mapping[str, Collection[str]]
    """`nats` and `kafka` → names."""

    def has(self, source: str) -> bool:
        """Whether there is any connection of this broker."""
        return bool(self.names.get(source))

    def connection(self, section: Section, source: str, report: Report) -> str:
        """The name that the section's `connection` says, or its default: the only one, else `default`."""
        names = self.names.get(source, ())
        given = section.text("connection")
        if not names:
            return given or "default"
        if given and given not in names:
            message = f"`connections.{source}` has no {shown(given)}{report.hint(given, names, 'there is')}"
            report.error(section.value_at("connection"), section.key("connection"), message)
        if given:
            return given
        if len(names) == 1:
            return next(iter(names))
        if "default" not in names:
            message = f"is missing: there are several connections, {listed(sorted(names))}, and none is named `default`"
            report.error(section.position, section.key("connection"), message)
        return "default"


def respond_to(
    section: Section, source: str, connection: str, subjects: Collection[str], brokers: Brokers, report: Report
) -> RespondTo | None:
    """The handler's `respondTo`; None when there is none or it is wrong. `subjects`: all that the handler gets."""
    if "respondTo" not in section.values:
        return None
    at, key, given = section.at("respondTo"), section.key("respondTo"), section.values["respondTo"]
    if source == "":
        report.error(at, key, "a request handler answers its request; it has no `respondTo`")
        return None
    if isinstance(given, str):
        target, own = given, Section(key, at)
    else:
        target, own = given.text("resource"), given
    broker = own.text("source") or source
    if broker == "server":
        report.error(at, key, "a websocket handler answers on its socket; name a broker with `source: nats` or `kafka`")
        return None
    if not target:
        return None
    at, key = (at, key) if isinstance(given, str) else (own.at("resource"), own.key("resource"))
    if broker != source and not brokers.has(broker):
        message = f"`connections.{broker}` is not set; write where it is there"
        report.error(own.value_at("source"), own.key("source"), message)
    is_own = broker == source and not own.text("connection")
    name = connection if is_own else brokers.connection(own, broker, report)
    if own.text("key") and broker != "kafka":
        report.error(own.at("key"), own.key("key"), "has a meaning only for Kafka")
    problem = target_problem(broker, target)
    itself = own_resource(broker, subjects, target) if broker == source and name == connection else ""
    if itself and not problem:
        problem = f"is what the handler itself gets ({shown(itself)}); it would answer itself for ever"
    if problem:
        report.error(at, key, f"{shown(target)}: {problem}")
        return None
    headers = own.section("headers")
    return RespondTo(
        source=cast(Literal["nats", "kafka"], broker),
        resource=target,
        connection=name,
        key=own.text("key"),
        headers=dict(headers.values) if headers else {},
        position=section.at("respondTo"),
    )


def target_problem(broker: str, target: str) -> str:
    """Why nothing can be published there; empty when it can."""
    if broker == "kafka":
        return resources.topic_problem(target)
    if resources.has_wildcard(target):
        return "nothing can be published to a wildcard"
    return resources.subject_problem(target)


def own_resource(broker: str, subjects: Collection[str], target: str) -> str:
    """The one of a handler's own subjects (or its topic) that gets what is published there; empty: none does."""
    for subject in subjects:
        if resources.subject_matches(subject, target) if broker == "nats" else subject == target:
            return subject
    return ""
