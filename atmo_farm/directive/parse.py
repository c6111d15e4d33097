"""From the texts of an application's files to a Directive: the whole of reading, in the order in which it happens."""

from __future__ import annotations

import attrs

from atmo_farm.directive import parse_connections, queries, yaml_tree
from atmo_farm.directive.keys.files import DIRECTIVE, QUERIES_FILE, RUNNABLE
from atmo_farm.directive.keys.kinds import MISSING
from atmo_farm.directive.keys.shapes import Table
from atmo_farm.directive.model import Directive
from atmo_farm.directive.nodes import Mapping, Node
from atmo_farm.directive.parse_handlers import Surroundings, handlers
from atmo_farm.directive.parse_respond_to import Brokers
from atmo_farm.directive.parse_runnables import runnables
from atmo_farm.directive.parse_schedules import schedules
from atmo_farm.directive.parse_steps import Functions
from atmo_farm.directive.report import Report, in_order
from atmo_farm.directive.section import Section
from atmo_farm.errors import Position
from atmo_farm.settings import HandlerDefaults


@attrs.frozen
class RunnableFile:
    """The text of a `.runnable.yaml` and the name that its function has when it says none."""

    file: str
    text: bytes
    folder: str


@attrs.frozen
class Texts:
    """The texts of an application's files."""

    directive_file: str
    directive: bytes
    queries_file: str = ""
    queries: bytes | None = None
    runnables: tuple[RunnableFile, ...] | None = None
    """None: the Directive itself holds them, as in a bundle."""


@attrs.frozen
class Parsed:
    """A Directive and the trees that it was read from; only what could be read of them when the report holds errors."""

    directive: Directive
    tree: Mapping
    queries_tree: Node | None = None


def parse(texts: Texts, defaults: HandlerDefaults, report: Report) -> Parsed:
    """Read and check everything; whether the result is whole, the report says."""
    tree, top = _read(texts.directive, texts.directive_file, DIRECTIVE, report)
    queries_tree, more_queries = _queries_file(texts, report)
    sections = _runnable_sections(texts, top, report)
    identifier, version = (top.text("identifier"), top.text("appVersion")) if top else ("", "")
    known = runnables(sections, identifier, version, report)
    if top is None or not isinstance(tree, Mapping):
        nothing = Mapping({}, Position(texts.directive_file, 1, 1))
        return Parsed(Directive("", "", "", runnables=tuple(known.values())), nothing, queries_tree)
    if not known and not sections:
        where = "`runnables` is empty" if texts.runnables is None else "no .runnable.yaml is in or below this folder"
        report.error(top.position, "runnables", f"the application has no function: {where}")
    functions = Functions(identifier, version, known)
    written = top.section("connections")
    connections = parse_connections.connections(written, report)
    brokers = Brokers({name: _names(top, written, name) for name in ("nats", "kafka")})
    databases = set(_names(top, written, "databases")) | (
        {"default"} if written and written.is_written("database") else set()
    )
    directive = Directive(
        identifier=identifier,
        app_version=version,
        atmo_version=top.text("atmoVersion"),
        headless=top.get("headless", False),
        connections=connections,
        authentication=parse_connections.authentication(top.section("authentication"), report),
        capabilities=parse_connections.capabilities(top.section("capabilities"), report),
        handlers=handlers(top.sections("handlers"), Surroundings(identifier, functions, brokers, defaults), report),
        schedules=schedules(top.sections("schedules"), functions, report),
        queries=queries.queries((*top.sections("queries"), *more_queries), connections.databases, databases, report),
        runnables=tuple(known.values()),
        not_served=in_order(report.not_served),
    )
    return Parsed(directive, tree, queries_tree)


def _read(text: bytes, file: str, table: Table, report: Report) -> tuple[Node | None, Section | None]:
    tree = yaml_tree.parse(text, file, report)
    if tree is None:
        return None, None
    section = table.read(tree, "", tree.position, report)
    return tree, None if section is MISSING else section


def _queries_file(texts: Texts, report: Report) -> tuple[Node | None, tuple[Section, ...]]:
    if texts.queries is None or yaml_tree.is_blank(texts.queries):
        return None, ()
    tree, section = _read(texts.queries, texts.queries_file, QUERIES_FILE, report)
    return tree, section.sections("queries") if section else ()


def _runnable_sections(texts: Texts, top: Section | None, report: Report) -> list[tuple[Section, str]]:
    """The functions, and the name that each has when it says none."""
    if texts.runnables is None:
        return [(section, "") for section in top.sections("runnables")] if top else []
    if top and top.sections("runnables"):
        message = "is filled in by the build; what stands here has no effect, the .runnable.yaml files count"
        report.warn(top.at("runnables"), "runnables", message)
    sections: list[tuple[Section, str]] = []
    for file in texts.runnables:
        if yaml_tree.is_blank(file.text):
            sections.append((Section("", Position(file.file, 1, 1)), file.folder))
            continue
        _, section = _read(file.text, file.file, RUNNABLE, report)
        # A file that cannot be read still stands for a function, or every step that names it would be called wrong.
        sections.append((section or Section("", Position(file.file, 1, 1)), file.folder))
    return sections


def _names(top: Section, connections: Section | None, name: str) -> tuple[str, ...]:
    """The names that stand under `connections.<name>`, also of entries that are wrong."""
    if top.is_wrong("connections"):
        return ("default",)
    if connections is None or not connections.is_written(name):
        return ()
    section = connections.section(name)
    return tuple(section.places) if section else ("default",)
