"""No input makes the reader do anything but return a Directive or a list of problems, each inside of its file."""

from __future__ import annotations

import re
import time
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atmo_farm.directive.keys.files import DIRECTIVE, QUERIES_FILE
from atmo_farm.directive.model import Directive
from atmo_farm.errors import Problem
from tests.unit.directive.made import mutated, values
from tests.unit.directive.support import FILE, HEAD, read
from tests.unit.directive.test_directive_bundle import EVERYTHING

SECONDS = 1.0
BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What YAML counts as the end of a line."""

many = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))


def judged(directive: bytes, queries: bytes | None = None) -> tuple[Directive | None, tuple[Problem, ...]]:
    """Read the texts and demand all that holds for any text."""
    start = time.process_time()
    found, problems = read(directive, queries)
    assert time.process_time() - start < SECONDS
    assert (found is None) == any(problem.severity == "error" for problem in problems)
    texts = {FILE: directive, "Queries.yaml": queries or b""}
    for problem in problems:
        position = problem.position
        assert problem.message
        assert str(problem).isprintable()
        assert len(str(problem)) < 2000
        if position.file in texts:
            lines = BREAK.split(texts[position.file].decode("utf-8", "replace"))
            assert 0 <= position.line <= len(lines), problem
            assert position.line == 0 or 1 <= position.column <= len(lines[position.line - 1]) + 1, problem
    return found, problems


@many
@given(st.binary(max_size=500), st.none() | st.binary(max_size=200))
def test_any_bytes(directive: bytes, queries: bytes | None) -> None:
    judged(directive, queries)


SIGNS = st.sampled_from(
    ["- ", "? ", ": ", "[", "]", "{", "}", ", ", " ", "  ", "\n", "\n  ", "&a ", "*a", "*b", "!!str ", "!!int ", "!x ",
     "!<", "%YAML 1.1\n", "%TAG ! tag:x,2000:\n", "---\n", "...\n", "|\n", "|2-\n", ">", "'", '"', "\\x", "\\ud800",
     "\t", "#", "<<: ", "~", "\ufeff", "\u2028", "\x85", "\r", "\r\n", "é", "😀", "\0", "\x07", "@", "`", "identifier",
     "handlers", "connections", "steps", "env(X)"]
)  # fmt: skip


@many
@given(st.lists(SIGNS, max_size=40).map("".join), st.booleans())
def test_any_signs_of_yaml(text: str, after_a_head: bool) -> None:
    """Whatever stands where, also in a file that begins well."""
    judged((HEAD * after_a_head + text).encode("utf-8", "surrogatepass"))


KEYS = sorted(
    {key.name for key in DIRECTIVE.keys} | {"nats", "fn", "group", "with", "type", "steps", "<<", "x", "1", ""}
)
SCALARS = st.sampled_from(
    ["a", "''", "~", "0", "-1", "1e400", "2001-01-01", "off", "stream", "nats", "env(A)", "hello"]
)
MARKS = st.sampled_from(["", "", "", "", "&a ", "&b ", "!!map ", "!!seq ", "!!str ", "!odd ", "! "])


def flow(depth: int) -> st.SearchStrategy[str]:
    """A YAML tree in brackets, with anchors, aliases, tags, merges, odd keys and keys that are there twice."""
    if depth == 0:
        return SCALARS | st.sampled_from(["*a", "*b"])
    below = st.deferred(lambda: flow(depth - 1))
    names = st.sampled_from(KEYS).map(lambda name: f'"{name}"' if name != "<<" else name) | st.just("[k]")
    pairs = st.lists(st.tuples(names, below).map(": ".join), max_size=4)
    parts = st.lists(below, max_size=4).map(lambda items: f"[{', '.join(items)}]")
    return st.builds("{}{}".format, MARKS, parts | pairs.map(lambda items: f"{{{', '.join(items)}}}")) | flow(0)


@many
@given(flow(4))
def test_any_tree(text: str) -> None:
    judged(text.encode())


@many
@given(st.sampled_from(KEYS).flatmap(lambda key: st.tuples(st.just(key), flow(3))))
def test_any_tree_under_a_key(pair: tuple[str, str]) -> None:
    """A good head, then a known key with anything under it."""
    judged((HEAD + f'"{pair[0]}": {pair[1]}\n').encode())


def dumped(tree: Any) -> bytes:
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode()


@settings(many, max_examples=80)
@given(values(DIRECTIVE), values(QUERIES_FILE))
def test_whatever_the_tables_allow(directive: Any, queries: Any) -> None:
    """Keys that are each right by themselves; what one says of another may still be wrong."""
    _, problems = judged(dumped(directive), dumped(queries))
    for problem in problems:
        assert "is not a key of" not in problem.message
        assert "must be a mapping" not in problem.message


WHOLE = yaml.load(
    HEAD
    + "handlers:\n"
    + EVERYTHING.replace("# a comment\n", "")
    + "schedules: [{name: s, every: {days: 1}, steps: [{fn: hello}]}]\nqueries: [{name: q, query: 'SELECT ?'}]\n"
    + "capabilities: {http: {rules: {allowedDomains: [a.example], allowedPorts: [8080]}}}\n"
    + "authentication: {domains: {a.example: {value: env(A)}}}\n",
    Loader=yaml.BaseLoader,
)
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", 0, -1, 1.5, True, [], {}, [[]], {"a": "b"}, "x" * 5000, "a\nb", "\x07", "env(X)", "*"]
)


@many
@given(mutated(WHOLE, ODD))
def test_a_good_file_with_mistakes(tree: Any) -> None:
    """Parts that are replaced, missing, misspelt or in another's place."""
    judged(dumped(tree))


def test_the_file_that_mistakes_are_made_in_is_good() -> None:
    found, problems = judged(dumped(WHOLE))
    assert found is not None
    assert problems == ()
