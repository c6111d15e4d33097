"""Writing a bundle that Atmo could read, always with the same bytes for the same application.

The Directive goes in as the user wrote it (texts, order and styles of values are kept, comments are not), with the
queries of Queries.yaml and all functions merged in. So a bundle says no more than its source, and defaults stay with
the machine that runs it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from atmo_farm.directive import yaml_tree, zip_reader
from atmo_farm.directive.application import Application
from atmo_farm.directive.bundle import DIRECTIVE, STATIC
from atmo_farm.directive.model import Runnable
from atmo_farm.directive.nodes import Entry, Mapping, Node, Scalar, Sequence, is_unset
from atmo_farm.directive.report import Report
from atmo_farm.errors import Position, Problem, UserFilesError

_TAG = "tag:yaml.org,2002:"
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_RESOLVER = yaml.SafeLoader("")
_HERE = Position("")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_bundle(application: Application, target: Path) -> None:
    """Write the application to `target`, whole or not at all; an older file there is replaced at once.

    Raises UserFilesError when a file of the application cannot be read any more, or the bundle could not be read
    again because it is too large; OSError when `target` cannot be written.
    """
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    try:
        with zipfile.ZipFile(unfinished, "x", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name, data in _files(application):
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, data)
        _check_readable(unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def directive_text(application: Application) -> bytes:
    """The bundle's Directive.yaml."""
    top = application.source.tree
    entries = dict(top.entries)
    more = _entry(application.source.queries_tree, "queries")
    if more and isinstance(more, Sequence):
        own = _entry(top, "queries")
        items = [*(own.items if isinstance(own, Sequence) else ()), *more.items]
        entries["queries"] = Entry(_scalar("queries"), Sequence(items, _HERE))
    runnables: list[Node] = [_runnable(runnable) for runnable in application.directive.runnables]
    entries["runnables"] = Entry(_scalar("runnables"), Sequence(runnables, _HERE))
    tree = Mapping({name: entry for name, entry in entries.items() if not is_unset(entry.value)}, _HERE)
    text = yaml.serialize(_yaml(tree), Dumper=_DUMPER, allow_unicode=True, width=1 << 20, encoding="utf-8")
    assert isinstance(text, bytes)
    return text


def _files(application: Application) -> Iterator[tuple[str, bytes]]:
    """Names and contents, in the order of the archive."""
    yield DIRECTIVE, directive_text(application)
    modules = {runnable.module: runnable.key for runnable in application.directive.runnables}
    for module, key in sorted(modules.items()):
        yield module, application.module(key)
    for name in application.static_names():
        yield STATIC + name, application.static(name)


def _check_readable(path: Path) -> None:
    report = Report()
    try:
        with path.open("rb") as file:
            entries = zip_reader.entries(file)
            yaml_tree.parse(zip_reader.read(file, entries[DIRECTIVE]), DIRECTIVE, report)
        for problem in report.problems:
            raise zip_reader.BadZipError(f"with all that is merged in, {problem.message}", DIRECTIVE)
    except zip_reader.BadZipError as error:
        message = f"cannot be put into a bundle: {error}"
        raise UserFilesError([Problem(Position(error.name or str(path)), "", message)]) from error


def _entry(node: Node | None, name: str) -> Node | None:
    entry = node.entries.get(name) if isinstance(node, Mapping) else None
    return entry.value if entry else None


def _runnable(runnable: Runnable) -> Mapping:
    written = {
        "name": runnable.name,
        "namespace": runnable.namespace,
        "lang": runnable.lang,
        "version": runnable.version,
        "fqfn": runnable.fqfn,
    }
    if runnable.interface != "runnable":
        written["interface"] = runnable.interface
    return Mapping({name: Entry(_scalar(name), _scalar(value)) for name, value in written.items() if value}, _HERE)


def _scalar(text: str) -> Scalar:
    """A text that stays one for every reader of YAML: in quotes where it would be taken for something else."""
    is_text = _plain_tag(text) == f"{_TAG}str"
    return Scalar(text, None if is_text else '"', _HERE)


def _plain_tag(text: str) -> str:
    """The YAML tag that an unquoted text has."""
    return str(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False)))  # type: ignore[no-untyped-call]


def _yaml(node: Node) -> yaml.Node:
    """The tree as PyYAML's nodes; nesting is bounded, so this may call itself."""
    if isinstance(node, Scalar):
        tag = f"{_TAG}str" if node.style else _plain_tag(node.text)
        return yaml.ScalarNode(tag, node.text, style=node.style)
    if isinstance(node, Sequence):
        return yaml.SequenceNode(f"{_TAG}seq", [_yaml(item) for item in node.items], flow_style=False)
    pairs = [(_yaml(entry.key), _yaml(entry.value)) for entry in node.entries.values()]
    return yaml.MappingNode(f"{_TAG}map", pairs, flow_style=False)
