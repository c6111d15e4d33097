"""What the key tables make of a YAML mapping: the values that are right, and the places of all keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

import attrs

from atmo_farm.errors import Position

T = TypeVar("T")


@attrs.frozen(eq=False)
class Place:
    """Where a key and its value stand."""

    key: Position
    value: Position
    is_unset: bool = False
    """Nothing stands after the key, or an empty text: the same as if the key were not there."""


@attrs.frozen(eq=False)
class Section:
    """One mapping of a user's file, read by its table.

    `values` holds the keys that are set and right; `places` holds every key that is written, right or wrong, so that
    a wrong value is never called missing.
    """

    path: str
    """The key path, `handlers[0].retry`; empty for the whole file."""
    position: Position
    """The first line of the item."""
    values: Mapping[str, Any] = attrs.field(factory=dict)
    places: Mapping[str, Place] = attrs.field(factory=dict)

    def get(self, name: str, default: T) -> T:
        """The value of a key, or the default when it is not set or wrong."""
        return cast(T, self.values.get(name, default))

    def text(self, name: str) -> str:
        """The text of a key; empty when it is not set."""
        return self.get(name, "")

    def find(self, name: str) -> Any:
        """The value of a key, or None."""
        return self.values.get(name)

    def section(self, name: str) -> Section | None:
        """The mapping under a key."""
        return self.get(name, None)

    def sections(self, name: str) -> tuple[Section, ...]:
        """The list of mappings under a key."""
        return self.get(name, ())

    def is_written(self, name: str) -> bool:
        """Whether the key has a value in the file, right or wrong."""
        place = self.places.get(name)
        return place is not None and not place.is_unset

    def is_wrong(self, name: str) -> bool:
        """Whether the key has a value that could not be read; the report has told why."""
        return self.is_written(name) and name not in self.values

    def at(self, name: str) -> Position:
        """Where the key stands; the item's first line when it is not written."""
        place = self.places.get(name)
        return place.key if place else self.position

    def value_at(self, name: str) -> Position:
        """Where the key's value stands; the item's first line when it is not written."""
        place = self.places.get(name)
        return place.value if place else self.position

    def key(self, name: str) -> str:
        """The key path of one of its keys."""
        return f"{self.path}.{name}" if self.path else name

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)


def plain(value: Any) -> Any:
    """Sections as dicts and tuples, without places, so that they can be compared and kept."""
    if isinstance(value, Section):
        return {name: plain(item) for name, item in value.values.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return value
