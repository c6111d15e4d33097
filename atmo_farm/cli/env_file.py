"""Files of environment variables, as --env-file takes them.

# a comment
NAME=plain text, up to the end of the line or a blank and #
export TOKEN='kept as it is'
GREETING="two\\nlines, \\"quotes\\", \\\\ and \\$"
"""

from __future__ import annotations

import re
from pathlib import Path

from atmo_farm.errors import Position, Problem, UserFilesError

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([^=\s#]+)\s*=\s*(.*)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED = re.compile(r"""(?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)")\s*(?:#.*)?""", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read(path: Path) -> dict[str, str]:
    """The variables of the file; of a name that stands twice the later value holds.

    UserFilesError with every line that is no assignment. Values are never part of a message: they may be secrets.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise UserFilesError([Problem(Position(str(path)), "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise UserFilesError([Problem(Position(str(path)), "", "is not UTF-8 text")]) from error
    variables: dict[str, str] = {}
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            name, value = _assignment(line.rstrip("\r"))
            variables[name] = value
        except ValueError as error:
            column = len(line) - len(line.lstrip()) + 1
            problems.append(Problem(Position(str(path), number, column), "", str(error)))
    if problems:
        raise UserFilesError(problems)
    return variables


def _assignment(line: str) -> tuple[str, str]:
    match = _ASSIGNMENT.fullmatch(line)
    if match is None:
        raise ValueError("is no assignment; write NAME=VALUE")
    name, text = match[1], match[2]
    if not _NAME.fullmatch(name):
        raise ValueError("the name before the = is not one of a variable: letters, digits and _, no digit first")
    if "\0" in text:
        raise ValueError(f"{name}: holds a zero byte")
    if text[:1] not in ("'", '"'):
        return name, re.split(r"(?:^|\s)#", text, maxsplit=1)[0].strip()
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        raise ValueError(f"{name}: the quotes do not close on this line, or something follows them")
    if quoted["single"] is not None:
        return name, quoted["single"]
    return name, re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), quoted["double"])
