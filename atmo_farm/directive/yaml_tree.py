"""Reading a YAML file into a tree of nodes, whatever it holds.

The tree is built from libyaml's events, without recursion, and every bound is checked while they arrive: nesting,
nodes (an alias counts as all that it stands for), and the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import yaml

from atmo_farm.directive.nodes import Entry, Mapping, Node, Scalar, Sequence
from atmo_farm.directive.report import Report, shown
from atmo_farm.directive.yaml_text import YamlText, decoded
from atmo_farm.errors import Position

MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_ALIASES = 200

_TOO_DEEP = f"is nested deeper than {MAX_DEPTH} levels"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TAGS = {"!", *(_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))}


class _RefusedError(Exception):
    """Nothing more can be read from this file; its problem is in the report."""


def is_blank(data: bytes) -> bool:
    """Whether a file holds nothing but blanks and comments."""
    return all(
        not line.strip() or line.lstrip().startswith(b"#") for line in data.removeprefix(b"\xef\xbb\xbf").splitlines()
    )


def parse(data: bytes, file: str, report: Report) -> Node | None:
    """The tree of a file's only document; None when it is empty or cannot be read, which the report then says."""
    text = decoded(data, file, report)
    if text is None:
        return None
    builder = _Builder(text, report)
    try:
        for event in yaml.parse(text.text, Loader=_LOADER):
            builder.take(event)
    except _RefusedError:
        return None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        position, message = text.syntax_error(error)
        # libyaml has a bound of its own, and meets it before it gives the first event of the line.
        report.error(position, "", _TOO_DEEP if "nesting depth" in message else message)
        return None
    if builder.root is None:
        report.error(Position(file, 1, 1), "", "the file is empty")
    return builder.root


@attrs.define
class _Frame:
    """A list or mapping that is still open."""

    node: Sequence | Mapping
    anchor: str | None
    key: Scalar | None = None
    """In a mapping: the key that waits for its value."""


class _Builder:
    """Takes events one by one and keeps every bound."""

    def __init__(self, text: YamlText, report: Report) -> None:
        self.root: Node | None = None
        self._text = text
        self._report = report
        self._open: list[_Frame] = []
        self._anchors: dict[str, Node] = {}
        self._documents = 0
        self._aliases = 0
        self._nodes = 0

    def take(self, event: yaml.Event) -> None:
        """One event of the parser."""
        if isinstance(event, yaml.ScalarEvent):
            self._check_tag(event)
            style = event.style or ('"' if event.tag == _TAG + "str" else None)
            scalar = Scalar(event.value, style, self._position(event))
            if event.anchor:
                self._anchors[event.anchor] = scalar
            self._add(scalar)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._enter(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._leave()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._refuse(
                    self._position(event), "the file holds more than one document; keep one, without `---` lines"
                )

    def _position(self, event: yaml.Event) -> Position:
        mark = event.start_mark
        assert mark is not None  # events of a parser always have one
        return self._text.place(mark.line, mark.column)

    def _refuse(self, position: Position, message: str) -> None:
        self._report.error(position, self._path(), message)
        raise _RefusedError

    def _path(self) -> str:
        """The key path of what is being read."""
        path = ""
        for frame in self._open:
            if isinstance(frame.node, Sequence):
                path += f"[{len(frame.node.items)}]"
            elif frame.key is not None:
                path += f".{frame.key.text}" if path else frame.key.text
        return path

    def _check_tag(self, event: yaml.ScalarEvent | yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        if event.tag is not None and event.tag not in _TAGS:
            self._refuse(self._position(event), f"the YAML tag {shown(event.tag)} is not used here; remove it")

    def _enter(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        self._check_tag(event)
        position = self._position(event)
        if len(self._open) >= MAX_DEPTH:
            self._refuse(position, _TOO_DEEP)
        if self._open and isinstance(self._open[-1].node, Mapping) and self._open[-1].key is None:
            self._refuse(position, "a key must be a text, not a list or a mapping")
        node: Sequence | Mapping
        node = Mapping({}, position) if isinstance(event, yaml.MappingStartEvent) else Sequence([], position)
        self._open.append(_Frame(node, event.anchor))

    def _leave(self) -> None:
        frame = self._open.pop()
        if isinstance(frame.node, Mapping):
            self._merge(frame.node)
        children = list(_children(frame.node))
        frame.node.height = 1 + max((child.height for child in children), default=0)
        frame.node.size = 1 + sum(child.size for child in children)
        if frame.anchor:
            self._anchors[frame.anchor] = frame.node
        self._add(frame.node)

    def _alias(self, event: yaml.AliasEvent) -> None:
        position = self._position(event)
        name = str(event.anchor)
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._refuse(position, f"more than {MAX_ALIASES} aliases (`*name`) in one file")
        if any(frame.anchor == name for frame in self._open):
            self._refuse(position, f"the alias {shown('*' + name)} stands inside of what it names")
        node = self._anchors.get(name)
        if node is None:
            self._refuse(position, f"the alias {shown('*' + name)} names no anchor above it")
            return
        if len(self._open) + node.height > MAX_DEPTH:
            self._refuse(position, _TOO_DEEP)
        self._nodes += node.size
        self._add(attrs.evolve(node, position=position))

    def _add(self, node: Node) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._refuse(node.position, f"more than {MAX_NODES:,} values in one file, aliases counted in full")
        if not self._open:
            self.root = node
            return
        frame = self._open[-1]
        if isinstance(frame.node, Sequence):
            frame.node.items.append(node)
        elif frame.key is None:
            if not isinstance(node, Scalar):
                self._refuse(node.position, "a key must be a text, not a list or a mapping")
            else:
                frame.key = node
        else:
            key = frame.key
            first = frame.node.entries.get(key.text)
            if first is None:
                frame.node.entries[key.text] = Entry(key, node)
            else:
                at = f"line {first.key.position.line}"
                self._report.error(key.position, self._path(), f"is written twice; the first one is on {at}")
            frame.key = None

    def _merge(self, mapping: Mapping) -> None:
        """YAML's merge key: `<<: *defaults`; what the mapping says itself wins."""
        merge = mapping.entries.get("<<")
        if merge is None or merge.key.style is not None:
            return
        del mapping.entries["<<"]
        sources = merge.value.items if isinstance(merge.value, Sequence) else [merge.value]
        for source in sources:
            if not isinstance(source, Mapping):
                self._report.error(merge.key.position, self._path(), "`<<` takes a mapping or a list of mappings")
                continue
            for name, entry in source.entries.items():
                mapping.entries.setdefault(name, entry)


def _children(node: Sequence | Mapping) -> Iterator[Node]:
    if isinstance(node, Sequence):
        yield from node.items
    else:
        yield from (entry.value for entry in node.entries.values())
