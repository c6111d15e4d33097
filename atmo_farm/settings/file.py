"""Reading the settings file: from YAML to the text and the place of each setting, with every problem at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
import yaml

from atmo_farm.errors import Position, Problem, UserFilesError
from atmo_farm.settings.keys import KEYS

MAX_BYTES = 1 << 20

_NULL = "tag:yaml.org,2002:null"
_LEAVES = {key.path for key in KEYS}
_SECTIONS = {path.rsplit(".", count)[0] for path in _LEAVES for count in range(1, path.count(".") + 1)}


@attrs.frozen
class Entry:
    """One setting as it stands in the file."""

    path: str
    text: str
    position: Position


def read(file: Path) -> list[Entry]:
    """The settings of the file that are set (a null leaves a setting at its default).

    UserFilesError with all problems: no such file, not YAML, unknown or repeated keys, values that are no single value.
    """
    root = _compose(file)
    entries: list[Entry] = []
    problems: list[Problem] = []
    if root is not None:
        for found in _walk(str(file), root, ""):
            (entries if isinstance(found, Entry) else problems).append(found)  # type: ignore[arg-type]
    if problems:
        raise UserFilesError(sorted(problems, key=lambda problem: problem.position))
    return entries


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or what there is."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; there is {', '.join(words)}"


def _compose(file: Path) -> yaml.Node | None:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserFilesError([Problem(Position(str(file)), "", f"is over {MAX_BYTES >> 20} MiB: no settings file")])
        return yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserFilesError([Problem(Position(str(file)), "", f"cannot be read: {error.strerror}")]) from error
    except (UnicodeDecodeError, RecursionError) as error:
        what = "is nested too deeply" if isinstance(error, RecursionError) else "is not UTF-8 text"
        raise UserFilesError([Problem(Position(str(file)), "", what)]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        position = Position(str(file), mark.line + 1, mark.column + 1) if mark else Position(str(file))
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserFilesError([Problem(position, "", f"is not valid YAML: {what}")]) from error


def _walk(file: str, node: yaml.Node, section: str) -> Iterator[Entry | Problem]:
    if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
        return
    if not isinstance(node, yaml.MappingNode):
        yield Problem(_place(file, node), section, "must hold keys and values")
        return
    prefix = f"{section}." if section else ""
    names = {path[len(prefix) :].split(".")[0] for path in _LEAVES if path.startswith(prefix)}
    seen: set[str] = set()
    for key, value in node.value:
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
        path, place = prefix + name, _place(file, key)
        if name in seen:
            yield Problem(place, path, "stands twice; remove one of them")
        elif name not in names:
            yield Problem(place, path, f"there is no such setting{suggestion(name, names)}")
        elif path in _SECTIONS:
            yield from _walk(file, value, path)
        elif not isinstance(value, yaml.ScalarNode):
            yield Problem(_place(file, value), path, "must be a single value")
        elif value.tag != _NULL:
            yield Entry(path, value.value, _place(file, value))
        seen.add(name)


def _place(file: str, node: yaml.Node) -> Position:
    return Position(file, node.start_mark.line + 1, node.start_mark.column + 1)
