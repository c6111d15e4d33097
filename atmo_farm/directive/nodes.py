"""A YAML file as a tree that remembers where everything stands.

Scalars stay texts: `off`, `404` and `1.10` are what the user typed, and only the key that holds them decides what they
mean. So YAML 1.1's surprises (`off` is false, `1_0` is ten) never happen.

`size` is the number of nodes of a subtree and `height` its nesting, both with aliases counted in full.
"""

from __future__ import annotations

import attrs

from atmo_farm.errors import Position

_NULLS = {"", "~", "null", "Null", "NULL"}


@attrs.define(eq=False)
class Scalar:
    """A text."""

    text: str
    style: str | None
    """None for plain, else the quote or block sign that it was written with."""
    position: Position
    size: int = 1
    height: int = 1

    @property
    def is_null(self) -> bool:
        """Whether nothing is written here (or `null`)."""
        return self.style is None and self.text in _NULLS


@attrs.define(eq=False)
class Sequence:
    """A list."""

    items: list[Node]
    position: Position
    size: int = 1
    height: int = 1


@attrs.define(eq=False)
class Entry:
    """A key and its value."""

    key: Scalar
    value: Node


@attrs.define(eq=False)
class Mapping:
    """Keys and values in the order of the file; no key twice."""

    entries: dict[str, Entry]
    position: Position
    size: int = 1
    height: int = 1


Node = Scalar | Sequence | Mapping


def is_unset(node: Node) -> bool:
    """Nothing is written, or an empty text: both mean the same as leaving the key out."""
    return isinstance(node, Scalar) and (node.is_null or not node.text)
