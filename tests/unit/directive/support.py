"""How the tests of the Directive write files and look at what was said of them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from atmo_farm.directive.model import Directive
from atmo_farm.directive.parse import RunnableFile, Texts, parse
from atmo_farm.directive.report import Report, in_order
from atmo_farm.errors import Position, Problem
from atmo_farm.settings import HandlerDefaults

FILE = "Directive.yaml"
MARK = "«"
"""Stands in a test's YAML right before the place where a problem is expected."""

HEAD = """\
identifier: com.example.shop
appVersion: v1.0.0
atmoVersion: v0.4.7
connections:
  nats:
    serverAddress: localhost
"""
FUNCTIONS = ("hello", "upper", "db::get")


def stream(keys: str = "", steps: str = "[{fn: hello}]") -> str:
    """A Directive with one NATS handler that has these keys besides."""
    indented = textwrap.indent(textwrap.dedent(keys).strip("\n"), "    ")
    return (
        HEAD + f"handlers:\n  - type: stream\n    source: nats\n    resource: orders\n    steps: {steps}\n{indented}\n"
    )


def with_handlers(text: str, head: str = HEAD) -> str:
    """A Directive with these handlers, written as a list."""
    return head + "handlers:\n" + textwrap.indent(textwrap.dedent(text).strip("\n"), "  ") + "\n"


def read(
    text: str | bytes,
    queries: str | bytes | None = None,
    functions: tuple[str, ...] = FUNCTIONS,
    defaults: HandlerDefaults | None = None,
) -> tuple[Directive | None, tuple[Problem, ...]]:
    """The Directive (None with errors) and all problems, in order; `queries` is the text of Queries.yaml."""
    report = Report()
    data = text if isinstance(text, bytes) else text.encode()
    more = queries.encode() if isinstance(queries, str) else queries
    texts = Texts(FILE, data, "Queries.yaml", more, runnable_files(functions))
    parsed = parse(texts, defaults or HandlerDefaults(), report)
    return (None if report.has_errors else parsed.directive), in_order(report.problems)


def runnable_files(functions: tuple[str, ...]) -> tuple[RunnableFile, ...]:
    files = []
    for function in functions:
        namespace, _, name = function.rpartition("::")
        text = f"name: {name}\n" + (f"namespace: {namespace}\n" if namespace else "")
        files.append(RunnableFile(f"{name}/.runnable.yaml", text.encode(), name))
    return tuple(files)


def good(text: str, queries: str | None = None) -> Directive:
    """The Directive of a text that has no errors."""
    directive, problems = read(text, queries)
    assert directive is not None, "\n".join(map(str, problems))
    return directive


def marked(text: str, file: str = FILE) -> tuple[str, Position]:
    """The text without its mark, and the place of the mark."""
    before, mark, after = text.partition(MARK)
    assert mark, "no mark in the test's text"
    return before + after, Position(file, before.count("\n") + 1, len(before) - before.rfind("\n"))


def only_problem(text: str, severity: str = "error") -> Problem:
    """The one problem of a marked text; it must stand at the mark."""
    plain, position = marked(text)
    _, problems = read(plain)
    assert len(problems) == 1, "\n".join(map(str, problems))
    assert problems[0].position == position, f"expected at {position}: {problems[0]}"
    assert problems[0].severity == severity
    return problems[0]


def write_project(folder: Path, directive: str, modules: Mapping[str, bytes] | None = None) -> Path:
    """A project on disk; `modules` are `namespace::name` (or `name`) → wasm bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Directive.yaml").write_text(directive)
    for key, wasm in (modules if modules is not None else dict.fromkeys(FUNCTIONS, b"\0asm")).items():
        namespace, _, name = key.rpartition("::")
        place = folder / (f"{namespace}-{name}" if namespace else name)
        place.mkdir(exist_ok=True)
        text = f"name: {name}\n" + (f"namespace: {namespace}\n" if namespace else "")
        (place / ".runnable.yaml").write_text(text)
        (place / f"{name}.wasm").write_bytes(wasm)
    return folder
