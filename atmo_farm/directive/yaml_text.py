"""The text of a YAML file: from its bytes, and where in it something stands."""

from __future__ import annotations

import re

import yaml

from atmo_farm.directive.report import Report, one_line
from atmo_farm.errors import Position

MAX_BYTES = 4 << 20
_BREAKS = "\n\r\x85\u2028\u2029"
"""What ends a line for YAML; `\\r\\n` does it once."""
_NOT_YAML = re.compile("[^\\t\\n\\r\\x20-\\x7e\\x85\\xa0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


class YamlText:
    """A text and its places, which never lie outside of it."""

    def __init__(self, file: str, text: str):
        self.file = file
        self.text = text
        self._lines = 1 + sum(text.count(sign) for sign in _BREAKS) - text.count("\r\n")
        self._last = 1 + max(text.rfind(sign) for sign in _BREAKS)

    @property
    def end(self) -> Position:
        """The place behind the last character."""
        return Position(self.file, self._lines, len(self.text) - self._last + 1)

    def place(self, line: int, column: int) -> Position:
        """From the parser's counts, which begin at 0; it ends a last line that has no end, and may stand behind it."""
        return Position(self.file, line + 1, column + 1) if line < self._lines else self.end

    def syntax_error(self, error: Exception) -> tuple[Position, str]:
        """Where the parser gave up, and why."""
        if isinstance(error, yaml.MarkedYAMLError):
            mark = error.problem_mark or error.context_mark
            if mark is None:
                return Position(self.file, 1, 1), one_line(f"is not YAML: {error.problem}")
            line = self.text[max(mark.index - mark.column, 0) : mark.index + 1]
            if "\t" in line and not line[:-1].strip():
                return self.place(mark.line, mark.column), "is not YAML: a tab indents this line; use spaces"
            context = f" {error.context}" if error.context else ""
            return self.place(mark.line, mark.column), one_line(f"is not YAML: {error.problem}{context}")
        # Of libyaml these are characters that YAML does not allow; PyYAML's own scanner also fails on numbers.
        match = _NOT_YAML.search(self.text)
        before = YamlText(self.file, self.text[: match.start()] if match else "")
        return before.end, one_line(f"is not YAML: {getattr(error, 'reason', None) or error}")


def decoded(data: bytes, file: str, report: Report) -> YamlText | None:
    """The text of a file; None when it is too large or not UTF-8, which the report then says."""
    if len(data) > MAX_BYTES:
        report.error(Position(file), "", f"the file is larger than {MAX_BYTES >> 20} MiB")
        return None
    try:
        return YamlText(file, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        before = YamlText(file, error.object[: error.start].decode("utf-8"))
        report.error(before.end, "", "the file is not UTF-8 text; save it as UTF-8")
        return None
