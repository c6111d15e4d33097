"""The kind of texts that may be references: addresses, names, passwords, everything in `connections`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attrs

from atmo_farm.directive.keys.kinds import ANY_TEXT, MISSING, REFERENCE, scalar_text
from atmo_farm.directive.model import Reference
from atmo_farm.directive.nodes import Node
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

    def read(self, node: Node, key: str, at: Position, report: Report, /) -> Any:
        """A Reference, or what `check` makes of the text."""
        text = scalar_text(node, key, at, report, self.expected)
        if text is None:
            return MISSING
        try:
            reference = to_reference(text, key, at)
            if reference is not None:
                return reference
            if not text.isprintable():
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
