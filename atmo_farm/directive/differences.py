"""What of a Directive behaves otherwise here than in Atmo 0.4.7; docs/from-atmo.md has the whole list.

Each difference is told once, at the first place that it touches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import attrs

from atmo_farm.directive.model import Handler, OnErr
from atmo_farm.directive.nodes import Entry, Mapping
from atmo_farm.directive.parse import Parsed
from atmo_farm.errors import Position


@attrs.frozen
class Note:
    """One difference, at one place of the user's files."""

    position: Position
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.position}: note: {self.key}: {self.message}"


Place = tuple[Position, str]
"""Where a difference shows: position and key path."""


@attrs.frozen
class Difference:
    """One row of docs/from-atmo.md that can be seen in a Directive."""

    topic: str
    """As in the first column there."""
    text: str
    """What Atmo does; what the farm does, and how to have it otherwise."""
    touches: Callable[[Parsed], Iterator[Place]]


def notes(parsed: Parsed) -> tuple[Note, ...]:
    """The differences that touch a Directive without errors, in the order of their places."""
    firsts = [(min(difference.touches(parsed), default=None), difference.text) for difference in DIFFERENCES]
    found = [Note(*first, text) for first, text in firsts if first]
    return tuple(sorted(found, key=lambda note: note.position))


def _brokered(parsed: Parsed) -> Iterator[tuple[str, Handler]]:
    """The handlers of NATS and Kafka, with their key paths."""
    for number, handler in enumerate(parsed.directive.handlers):
        if handler.source in ("nats", "kafka"):
            yield f"handlers[{number}]", handler


def _payloads(parsed: Parsed) -> Iterator[Place]:
    return ((handler.position, key) for key, handler in _brokered(parsed) if handler.envelope == "auto")


def _answers(parsed: Parsed) -> Iterator[Place]:
    return ((handler.position, key) for key, handler in _brokered(parsed) if handler.respond_to is None)


def _outputs(parsed: Parsed) -> Iterator[Place]:
    for key, handler in _brokered(parsed):
        if handler.respond_to:
            yield handler.respond_to.position, f"{key}.respondTo"


def _shared(parsed: Parsed) -> Iterator[Place]:
    return ((handler.position, key) for key, handler in _brokered(parsed) if handler.group != "off")


def _kafka(parsed: Parsed) -> Iterator[Place]:
    return ((handler.position, key) for key, handler in _brokered(parsed) if handler.source == "kafka")


def _group_members(parsed: Parsed) -> Iterator[Place]:
    """Functions of groups with `with` or `onErr`."""
    sequences = [(f"handlers[{number}]", item.steps) for number, item in enumerate(parsed.directive.handlers)]
    sequences += [(f"schedules[{number}]", item.steps) for number, item in enumerate(parsed.directive.schedules)]
    for key, steps in sequences:
        for index, step in enumerate(steps):
            for member, call in enumerate(step.calls if step.is_group else ()):
                if call.with_ or call.on_err != OnErr():
                    yield call.position, f"{key}.steps[{index}].group[{member}]"


def _namespaces(parsed: Parsed) -> Iterator[Place]:
    for runnable in parsed.directive.runnables:
        if runnable.module != f"{runnable.name}.wasm":
            yield runnable.position, runnable.key


def _capabilities(parsed: Parsed) -> Iterator[Place]:
    """Capabilities of Atmo's that are named without all that it wants to see written."""
    wanted = {"requestHandler": {"allowGetField", "allowSetField"}, "http": {"rules"}, "graphql": {"rules"}}
    for name, entry in _entries(_entry(parsed.tree, "capabilities")):
        written = {key for key, _ in _entries(entry)}
        if name != "secrets" and not {"enabled", *wanted.get(name, ())} <= written:
            yield entry.key.position, f"capabilities.{name}"


def _http_rules(parsed: Parsed) -> Iterator[Place]:
    for name, entry in _entries(_entry(parsed.tree, "capabilities")):
        if name in ("http", "graphql") and _entry(entry.value, "rules"):
            yield entry.key.position, f"capabilities.{name}"


def _counts(parsed: Parsed) -> Iterator[Place]:
    """Queries whose variables Atmo counts otherwise: each `$n` as often as it is written."""
    for number, query in enumerate(parsed.directive.queries):
        counted = len(re.findall(r"\$\d", query.query))
        if counted and counted != query.var_count:
            yield query.position, f"queries[{number}]"


def _mysql_texts(parsed: Parsed) -> Iterator[Place]:
    databases = parsed.directive.connections.databases
    for number, query in enumerate(parsed.directive.queries):
        if query.type == "select" and query.database in databases and databases[query.database].type == "mysql":
            yield query.position, f"queries[{number}]"


def _entry(node: object, name: str) -> Entry | None:
    return node.entries.get(name) if isinstance(node, Mapping) else None


def _entries(entry: Entry | None) -> Iterator[tuple[str, Entry]]:
    if entry and isinstance(entry.value, Mapping):
        yield from entry.value.entries.items()


DIFFERENCES = (
    Difference(
        "Payloads",
        "Atmo wraps what it sends in a Grav envelope and takes every JSON object that comes in for one; here payloads "
        "are raw bytes, and only a message that came in an envelope is answered in one (key `envelope`)",
        _payloads,
    ),
    Difference(
        "Answers",
        "Atmo answers to the handler's own resource; here the result goes to the message's reply subject, and nowhere "
        "if it has none: set `respondTo` for a fixed one",
        _answers,
    ),
    Difference(
        "Failed messages",
        "Atmo publishes a result even after an error; here a failed message publishes nothing (key `retry` says what "
        "is tried again)",
        _outputs,
    ),
    Difference(
        "Several instances",
        "in Atmo every instance gets every message; here all workers and farms of the application share them as one "
        "queue group (key `group`)",
        _shared,
    ),
    Difference(
        "Kafka's place",
        "Atmo starts at the end of the topic, without a consumer group, and acknowledges nothing; here a group keeps "
        "its place and commits what is done",
        _kafka,
    ),
    Difference(
        "Groups of functions",
        "Atmo ignores `with` and `onErr` inside of a group; here they work as anywhere else",
        _group_members,
    ),
    Difference(
        "Functions of one name",
        "Atmo cannot bundle two functions of one name; here the bundle has a `<namespace>.<name>.wasm` for each, which "
        "Atmo cannot read",
        _namespaces,
    ),
    Difference(
        "Capabilities",
        "in Atmo what is left out of a capability that is named is off, even `enabled`; here it keeps its default, "
        "which is on",
        _capabilities,
    ),
    Difference(
        "HTTP rules",
        "Atmo checks an address and then resolves it anew; here the connection goes to the very address that was "
        "checked, and each redirect is checked again",
        _http_rules,
    ),
    Difference(
        "Counting variables",
        "Atmo counts `$1` as often as it is written; here a query takes as many variables as its highest number says "
        "(key `varCount`)",
        _counts,
    ),
    Difference(
        "Texts of MySQL",
        "Atmo gives text columns of MySQL in base64; here they are texts",
        _mysql_texts,
    ),
)
