"""Kinds that hold other kinds: lists, mappings of free names, and tables of known keys."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

import attrs

from atmo_farm.directive.keys.kinds import MISSING, Kind
from atmo_farm.directive.nodes import Entry, Mapping, Node, Scalar, Sequence, is_unset
from atmo_farm.directive.report import Report, shown
from atmo_farm.directive.section import Place, Section, plain
from atmo_farm.errors import Position


@attrs.frozen
class Key:
    """One key of a table."""

    name: str
    kind: Kind
    doc: str
    required: bool = False
    default: str = ""
    """What holds when the key is not set, for the docs."""
    later: str = ""
    """The part of the farm that a later issue brings: until then start and reload refuse the key."""
    harmless: tuple[Any, ...] = ()
    """Values of such a key that ask for what this build does anyway."""
    sources: tuple[str, ...] = ()
    """The handler sources that the key has a meaning for; empty: all."""


@attrs.frozen(slots=False)
class Table:
    """A mapping with known keys."""

    name: str
    """Its name in the JSON Schema and the docs."""
    doc: str
    keys: tuple[Key, ...]

    @cached_property
    def by_name(self) -> dict[str, Key]:
        """The keys by their names."""
        return {key.name: key for key in self.keys}

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A Section."""
        if not isinstance(node, Mapping):
            report.error(at, key, f"must be a mapping with keys such as `{self.keys[0].name}:`")
            return MISSING
        values: dict[str, Any] = {}
        places: dict[str, Place] = {}
        section = Section(key, at, values, places)
        for name, entry in node.entries.items():
            unset = is_unset(entry.value)
            places[name] = Place(entry.key.position, entry.value.position, unset)
            known = self.by_name.get(name)
            if known is None:
                near = report.hint(name, self.by_name)
                report.error(entry.key.position, section.key(name), f"is not a key of {self.doc}{near}")
                continue
            if unset:
                if known.required:
                    report.error(entry.key.position, section.key(name), "must be set; nothing stands here")
                continue
            value = known.kind.read(entry.value, section.key(name), entry.key.position, report)
            if value is MISSING:
                continue
            values[name] = value
            if known.later and plain(value) not in known.harmless:
                message = f"{known.later} not served by this build yet; remove the key to start the farm"
                report.later(entry.key.position, section.key(name), message)
        for known in self.keys:
            if known.required and known.name not in places:
                report.error(at, section.key(known.name), f"is missing: {known.doc}")
        return section

    def schema(self, definitions: dict[str, Any], /) -> dict[str, Any]:
        """A reference to its definition."""
        if self.name not in definitions:
            definition: dict[str, Any] = {}
            definitions[self.name] = definition
            definition["type"] = "object"
            definition["description"] = self.doc
            definition["properties"] = {key.name: _described(key, definitions) for key in self.keys}
            definition["additionalProperties"] = False
            required = [key.name for key in self.keys if key.required]
            if required:
                definition["required"] = required
        return {"$ref": f"#/$defs/{self.name}"}

    def words(self) -> str:
        """A link to its own part of the docs."""
        return f"see [{self.name}](#{self.name.lower()})"


def _described(key: Key, definitions: dict[str, Any]) -> dict[str, Any]:
    default = f" Default: {key.default}." if key.default else ""
    later = " Not served by this build yet." if key.later else ""
    schema = key.kind.schema(definitions)
    if not key.required:
        schema = _or_null(schema)
    return {"description": key.doc + default + later} | schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A key that is not required may be left empty."""
    return {"anyOf": [schema, {"type": "null"}, {"const": ""}]}


@attrs.frozen
class ListOf:
    """A list of one kind."""

    item: Kind
    least: int = 0

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A tuple of those items that are right."""
        if not isinstance(node, Sequence):
            report.error(at, key, "must be a list (lines that begin with `- `)")
            return MISSING
        if len(node.items) < self.least:
            report.error(at, key, "is an empty list; it needs at least one item")
            return MISSING
        values = []
        for index, item in enumerate(node.items):
            if is_unset(item):
                report.error(item.position, f"{key}[{index}]", "nothing stands here; write an item, or remove the line")
                continue
            value = self.item.read(item, f"{key}[{index}]", item.position, report)
            if value is not MISSING:
                values.append(value)
        return tuple(values)

    def schema(self, definitions: dict[str, Any], /) -> dict[str, Any]:
        """An array."""
        least = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.item.schema(definitions)} | least

    def words(self) -> str:
        """The items' words."""
        return f"a list of: {self.item.words()}"


@attrs.frozen
class MapOf:
    """A mapping of free names to one kind."""

    value: Kind
    name_is: str = "a name"
    name_pattern: str = r"(?s).+"

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A Section of those entries that are right."""
        if not isinstance(node, Mapping):
            report.error(at, key, f"must be a mapping from {self.name_is} to {self.value.words()}")
            return MISSING
        values: dict[str, Any] = {}
        places: dict[str, Place] = {}
        section = Section(key, at, values, places)
        for name, entry in node.entries.items():
            places[name] = Place(entry.key.position, entry.value.position)
            value = self._value(name, entry, section.key(name), report)
            if value is not MISSING:
                values[name] = value
        return section

    def _value(self, name: str, entry: Entry, key: str, report: Report) -> Any:
        if not re.fullmatch(self.name_pattern, name, re.ASCII):
            report.error(entry.key.position, key, f"{shown(name)} is not {self.name_is}")
            return MISSING
        if isinstance(entry.value, Scalar) and entry.value.is_null:
            report.error(entry.key.position, key, "must be set; nothing stands here")
            return MISSING
        return self.value.read(entry.value, key, entry.key.position, report)

    def schema(self, definitions: dict[str, Any], /) -> dict[str, Any]:
        """An object with free property names."""
        names = (
            {} if self.name_pattern.startswith("(?s)") else {"propertyNames": {"pattern": f"^(?:{self.name_pattern})$"}}
        )
        return {"type": "object", "additionalProperties": self.value.schema(definitions)} | names

    def words(self) -> str:
        """Both sides."""
        return f"a mapping from {self.name_is} to: {self.value.words()}"


@attrs.frozen
class Either:
    """A single value, or something with parts."""

    scalar: Kind
    parts: Kind

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """What the kind that fits the node's shape reads."""
        kind = self.scalar if isinstance(node, Scalar) else self.parts
        return kind.read(node, key, at, report)

    def schema(self, definitions: dict[str, Any], /) -> dict[str, Any]:
        """One or the other."""
        return {"anyOf": [self.scalar.schema(definitions), self.parts.schema(definitions)]}

    def words(self) -> str:
        """Both."""
        same = isinstance(self.parts, ListOf) and self.parts.item == self.scalar
        return f"{self.scalar.words()}; or {'a list of these' if same else self.parts.words()}"


@attrs.frozen
class OneOrNamed:
    """One table, or a mapping of names to such tables."""

    table: Table
    name_pattern: str

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A Section of names to Sections; the single table has the name `default`."""
        if isinstance(node, Mapping) and self._has_names(node):
            return MapOf(self.table, "a connection's name", self.name_pattern).read(node, key, at, report)
        single = self.table.read(node, key, at, report)
        if single is MISSING:
            return MISSING
        return Section(key, at, {"default": single}, {"default": Place(at, at)})

    def _has_names(self, node: Mapping) -> bool:
        """Whether it holds connections by name: none of its keys is the table's, and a mapping stands behind one."""
        is_single = any(name in self.table.by_name for name in node.entries)
        return not is_single and any(isinstance(entry.value, Mapping) for entry in node.entries.values())

    def schema(self, definitions: dict[str, Any], /) -> dict[str, Any]:
        """One or the other."""
        one = self.table.schema(definitions)
        names = {"not": {"enum": sorted(self.table.by_name)}, "pattern": f"^(?:{self.name_pattern})$"}
        named = {"type": "object", "minProperties": 1, "additionalProperties": one, "propertyNames": names}
        return {"anyOf": [one, named]}

    def words(self) -> str:
        """Both."""
        return f"{self.table.words()}; or a mapping from a connection's name to that"


@attrs.frozen
class Refused:
    """A key that the language had once."""

    why: str

    def read(self, _node: Node, key: str, at: Position, report: Report, /) -> Any:
        """Never a value."""
        report.error(at, key, self.why)
        return MISSING

    def schema(self, _definitions: dict[str, Any], /) -> dict[str, Any]:
        """Nothing is valid."""
        return {"not": {}}

    def words(self) -> str:
        """Why."""
        return self.why
