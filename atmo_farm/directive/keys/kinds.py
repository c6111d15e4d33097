"""Kinds of single values.

Every kind has three faces: `read` (a node to a value, or MISSING when it is wrong, which the report then says),
`schema` (JSON Schema, generous where YAML would turn a text into a number or a boolean), `words` (for the docs).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs

from atmo_farm.directive.nodes import Node, Scalar
from atmo_farm.directive.report import Report, listed, one_line, shown
from atmo_farm.errors import Position
from atmo_farm.units import parse_duration, parse_size

MISSING: Final = object()
"""What `read` gives when there is no usable value."""

ANY_TEXT: Final = ["string", "number", "boolean"]
"""YAML's own types of what the farm takes as a text."""

REFERENCE = re.compile(r"(env|credential|file)\((.+)\)", re.ASCII)
"""A text that is a reference, where references are allowed."""


class Kind(Protocol):
    """One kind of value."""

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """The value, or MISSING; `at` is where a wrong value is told."""

    def schema(self, definitions: dict[str, Any], /) -> dict[str, Any]:
        """Its JSON Schema; tables put theirs into `definitions` and refer to it."""

    def words(self) -> str:
        """What may be written, for the docs."""


def scalar_text(node: Node, key: str, at: Position, report: Report, expected: str) -> str | None:
    """The text of a scalar; anything else is told as not being what was expected."""
    if isinstance(node, Scalar):
        return node.text
    report.error(at, key, f"must be {expected}, not a {'mapping' if hasattr(node, 'entries') else 'list'}")
    return None


@attrs.frozen
class Text:
    """A text, taken as it is typed."""

    expected: str = "a text"
    pattern: str = ""
    multiline: bool = False
    check: Callable[[str], str] | None = None
    """What is wrong with a text that has the pattern; empty when nothing is."""

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A str."""
        text = scalar_text(node, key, at, report, self.expected)
        if text is None:
            return MISSING
        if self.pattern and not re.fullmatch(self.pattern, text, re.ASCII):
            report.error(at, key, f"{shown(text)} is not {self.expected}")
            return MISSING
        if not self.multiline and not text.isprintable():
            report.error(at, key, f"must be {self.expected} without line breaks and control characters")
            return MISSING
        problem = self.check(text) if self.check else ""
        if problem:
            report.error(at, key, f"{shown(text)}: {problem}")
            return MISSING
        if REFERENCE.fullmatch(text):
            where = "only connections, authentication and secrets are read from elsewhere"
            report.warn(at, key, f"{shown(text)} is taken as it is typed; {where}")
        return text

    def schema(self, _definitions: dict[str, Any], /) -> dict[str, Any]:
        """Any scalar."""
        return {"type": ANY_TEXT} | ({"pattern": f"^(?:{self.pattern})$"} if self.pattern else {})

    def words(self) -> str:
        """As in messages."""
        return self.expected


@attrs.frozen
class Choice:
    """One of a few words."""

    options: tuple[str, ...]

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A str out of the options."""
        text = scalar_text(node, key, at, report, listed(self.options))
        if text is None:
            return MISSING
        word = self.booleans().get(text.lower(), text)
        if word in self.options:
            return word
        near = report.hint(text, self.options)
        report.error(at, key, f"{shown(text)} is not one of {listed(self.options)}{near}")
        return MISSING

    def schema(self, _definitions: dict[str, Any], /) -> dict[str, Any]:
        """An enumeration; `off` and `on` also as booleans, which YAML makes of them."""
        words = [spelt for word in self.booleans() for spelt in (word == "true", word, word.title(), word.upper())]
        return {"enum": [*self.options, *words]}

    def booleans(self) -> dict[str, str]:
        """YAML's booleans among the options, for files that a program wrote."""
        return {word: option for word, option in (("false", "off"), ("true", "on")) if option in self.options}

    def words(self) -> str:
        """The options."""
        return listed(self.options)


@attrs.frozen
class Flag:
    """true or false."""

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A bool."""
        text = scalar_text(node, key, at, report, "true or false")
        if text is None:
            return MISSING
        word = text.lower()
        if word in ("true", "yes", "on"):
            return True
        if word in ("false", "no", "off"):
            return False
        report.error(at, key, f"{shown(text)} is neither true nor false")
        return MISSING

    def schema(self, _definitions: dict[str, Any], /) -> dict[str, Any]:
        """A boolean, or its word in any case."""
        words = ("true", "false", "yes", "no", "on", "off")
        any_case = ("".join(f"[{letter.upper()}{letter}]" for letter in word) for word in words)
        return {"type": ["boolean", "string"], "pattern": f"^({'|'.join(any_case)})$"}

    def words(self) -> str:
        """As in messages."""
        return "`true` or `false`"


@attrs.frozen
class Integer:
    """A whole number."""

    low: int
    high: int

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """An int."""
        expected = f"a whole number from {self.low} to {self.high}"
        text = scalar_text(node, key, at, report, expected)
        if text is None:
            return MISSING
        if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII) and self.low <= int(text) <= self.high:
            return int(text)
        report.error(at, key, f"{shown(text)} is not {expected}")
        return MISSING

    def schema(self, _definitions: dict[str, Any], /) -> dict[str, Any]:
        """An integer, or its digits in quotes."""
        return {"type": ["integer", "string"], "minimum": self.low, "maximum": self.high, "pattern": "^-?[0-9]{1,18}$"}

    def words(self) -> str:
        """The range."""
        return f"{self.low} to {self.high}"


@attrs.frozen
class Number:
    """A number with or without a fraction."""

    low: float
    high: float

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A float."""
        expected = f"a number from {self.low:g} to {self.high:g}"
        text = scalar_text(node, key, at, report, expected)
        if text is None:
            return MISSING
        if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text, re.ASCII) and self.low <= float(text) <= self.high:
            return float(text)
        report.error(at, key, f"{shown(text)} is not {expected}")
        return MISSING

    def schema(self, _definitions: dict[str, Any], /) -> dict[str, Any]:
        """A number, or its digits in quotes."""
        digits = r"^[0-9]{1,15}(\.[0-9]{1,15})?$"
        return {"type": ["number", "string"], "minimum": self.low, "maximum": self.high, "pattern": digits}

    def words(self) -> str:
        """The range."""
        return f"{self.low:g} to {self.high:g}"


def _short(text: str) -> str:
    """The text, or what no unit is made of when it is far too long to be a number."""
    return text if len(text) <= 32 else f"{text[:32]}…"


@attrs.frozen
class Duration:
    """A time span."""

    low_s: float = 0.001
    high_s: float = 366 * 86400.0

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """Seconds as a float."""
        text = scalar_text(node, key, at, report, "a duration")
        if text is None:
            return MISSING
        try:
            value = parse_duration(_short(text))
        except ValueError as error:
            report.error(at, key, one_line(str(error)))
            return MISSING
        if self.low_s <= value <= self.high_s:
            return value
        report.error(at, key, f"{shown(text)} is not between {self.low_s:g} and {self.high_s:g} seconds")
        return MISSING

    def schema(self, _definitions: dict[str, Any], /) -> dict[str, Any]:
        """A number of seconds or a text with its unit."""
        return {
            "type": ["number", "string"],
            "minimum": self.low_s,
            "pattern": r"^\s*(\d+(\.\d+)?|\.\d+)\s*(ms|s|m|h)?\s*$",
        }

    def words(self) -> str:
        """As in messages."""
        return "a duration"


@attrs.frozen
class Size:
    """A number of bytes."""

    low: int
    high: int

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """Bytes as an int."""
        text = scalar_text(node, key, at, report, "a size")
        if text is None:
            return MISSING
        try:
            value = parse_size(_short(text))
        except ValueError as error:
            report.error(at, key, one_line(str(error)))
            return MISSING
        if self.low <= value <= self.high:
            return value
        report.error(at, key, f"{shown(text)} is not between {self.low} and {self.high} bytes")
        return MISSING

    def schema(self, _definitions: dict[str, Any], /) -> dict[str, Any]:
        """A number of bytes or a text with its unit."""
        return {
            "type": ["integer", "string"],
            "minimum": self.low,
            "pattern": r"^\s*(\d+|(\d+(\.\d+)?|\.\d+)\s*(B|KiB|MiB|GiB))\s*$",
        }

    def words(self) -> str:
        """As in messages."""
        return "a size"
