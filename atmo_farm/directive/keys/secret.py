"""Kinds of what may be a reference: addresses, names, passwords, nearly everything in `connections`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

from atmo_farm.directive.connections import Reference
from atmo_farm.directive.keys.kinds import ANY_TEXT, MISSING, REFERENCE, Kind, scalar_text
from atmo_farm.directive.nodes import Node, Scalar
from atmo_farm.directive.report import Report
from atmo_farm.errors import Position

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)


@attrs.frozen
class SecretText:
    """A text that may be a reference, and that no message ever shows."""

    check: Callable[[str], Any] | None = None
    """Turns a literal text into the value, or raises ValueError with what is wrong (without the text)."""
    expected: str = "a text"
    multiline: bool = False

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A Reference, or what `check` makes of the text."""
        text = scalar_text(node, key, at, report, self.expected)
        if text is None:
            return MISSING
        try:
            reference = to_reference(text, key, at)
            if reference is not None:
                return reference
            if not (is_lines(text) if self.multiline else text.isprintable()):
                raise ValueError("must not hold line breaks or control characters")
            return self.check(text) if self.check else text
        except ValueError as error:
            report.error(at, key, str(error))
            return MISSING

    def schema(self, _definitions: dict[str, Any], /) -> dict[str, Any]:
        """Any scalar."""
        return {"type": ANY_TEXT}

    def words(self) -> str:
        """As in messages, and that references are allowed."""
        return f"{self.expected}, or a [reference](#values)"


@attrs.frozen
class OrReference:
    """A value of another kind that may be a reference; what that stands for is read by the other kind."""

    kind: Kind

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A Reference, or what the other kind reads."""
        try:
            reference = to_reference(node.text, key, at) if isinstance(node, Scalar) else None
        except ValueError as error:
            report.error(at, key, str(error))
            return MISSING
        return reference or self.kind.read(node, key, at, report)

    def check(self, text: str) -> Any:
        """The value of what a reference stands for; the ValueError does not show the text."""
        value = self.kind.read(Scalar(text, None, Position("")), "", Position(""), Report())
        if value is MISSING:
            raise ValueError(f"does not fit; it must be {self.kind.words()}")
        return value

    def schema(self, definitions: dict[str, Any], /) -> dict[str, Any]:
        """The other kind's, or a reference."""
        return {"anyOf": [self.kind.schema(definitions), {"type": "string", "pattern": f"^{REFERENCE.pattern}$"}]}

    def words(self) -> str:
        """The other kind's, and that references are allowed."""
        return f"{self.kind.words()}, or a [reference](#values)"


def is_lines(text: str) -> bool:
    """Whether nothing in it but line ends and tabs is a control character, or no character at all."""
    return re.sub(r"[\t\r\n]", "", text).isprintable()


def to_reference(text: str, key: str, at: Position) -> Reference | None:
    """The reference that a whole text is, None for any other text; ValueError for a malformed name."""
    match = REFERENCE.fullmatch(text)
    if match is None:
        return None
    kind, name = match[1], match[2].strip()
    if kind == "env" and not _ENV_NAME.fullmatch(name):
        raise ValueError("`env(…)` needs the name of an environment variable: letters, digits and `_`")
    if kind == "credential" and (not _CREDENTIAL_NAME.fullmatch(name) or name.startswith(".")):
        raise ValueError("`credential(…)` needs the name of a credential: letters, digits, `_`, `-` and `.`")
    if kind == "file" and (not name or "\0" in name):
        raise ValueError("`file(…)` needs a path")
    if kind == "env":
        return Reference("env", name, key=key, position=at)
    if kind == "credential":
        return Reference("credential", name, key=key, position=at)
    return Reference("file", name, key=key, position=at)
