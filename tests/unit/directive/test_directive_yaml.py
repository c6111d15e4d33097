"""The YAML reader: texts stay texts, bounds hold, and whatever a file holds, a problem says so."""

from __future__ import annotations

import time

import pytest

from atmo_farm.directive import yaml_tree
from atmo_farm.directive.nodes import Mapping, Node, Scalar, Sequence
from atmo_farm.directive.report import Report
from atmo_farm.errors import Position
from tests.unit.directive.support import HEAD, good, only_problem, read, stream


def plain(node: Node | None) -> object:
    """The tree as dicts, lists and texts."""
    if isinstance(node, Mapping):
        return {name: plain(entry.value) for name, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return node.text if isinstance(node, Scalar) else None


def tree(text: str | bytes) -> tuple[object, list[str]]:
    report = Report()
    node = yaml_tree.parse(text if isinstance(text, bytes) else text.encode(), "f", report)
    return plain(node), [str(problem) for problem in report.problems]


def test_scalars_stay_what_was_typed() -> None:
    """None of YAML 1.1's booleans, octals, sexagesimals and timestamps exists here."""
    text = "a: off\nb: 0777\nc: 1_0\nd: 12:30:00\ne: 2001-01-01\nf: '404'\ng: yes\nh: 1.10\n"
    expected = {
        "a": "off",
        "b": "0777",
        "c": "1_0",
        "d": "12:30:00",
        "e": "2001-01-01",
        "f": "404",
        "g": "yes",
        "h": "1.10",
    }
    assert tree(text) == (expected, [])


def test_words_that_yaml_takes_for_booleans_work_as_values() -> None:
    """`off`, `no` and numbers are names like any other, and numbers may stand in quotes."""
    keys = 'group: off\ndeadLetter: off\nworkers: "4"\nresponse: no\ntimeout: "5"'
    handler = good(stream(keys, "[{fn: hello, as: no, onErr: {code: {'404': continue}}}]")).handlers[0]
    assert (handler.group, handler.dead_letter, handler.workers, handler.response) == ("off", None, 4, "no")
    assert handler.steps[0].calls[0].on_err.decide(404) == "continue"
    assert handler.timeout_s == 5.0
    assert good(stream("deadLetter: false")).handlers[0].dead_letter is None
    assert good(stream("deadLetter: true")) == good(stream("deadLetter: on"))
    assert good(stream("idempotent: off")).handlers[0].idempotent is False
    assert good(stream("idempotent: on")).handlers[0].idempotent is True


def test_aliases_and_merge_keys() -> None:
    """What the mapping says itself wins over what it merges."""
    text = "base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo: *b\nthree: {<<: [{x: 9}, *b]}\n"
    base = {"x": "1", "y": "2"}
    expected = {"base": base, "one": {"x": "1", "y": "3"}, "two": base, "three": {"x": "9", "y": "2"}}
    found, problems = tree(text)
    assert found == expected
    assert problems == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "f:1:1: the file is empty"),
        ("# nothing\n", "f:1:1: the file is empty"),
        ("a: 1\n---\nb: 2\n", "f:2:1: the file holds more than one document"),
        ("a: b\n\tc: d\n", "f:2:1: is not YAML: a tab indents this line; use spaces"),
        ("a:\n  - b\n c: d\n", "f:3:2: is not YAML"),
        ("[", "f:1:2: is not YAML"),
        ("a: 'b", "f:1:6: is not YAML"),
        ("a: b\u2028c: [", "f:2:5: is not YAML"),
        (b"\xef\xbb\xbfa: \xff", "f:1:4: the file is not UTF-8 text"),
        ("\u2028\0", "f:2:1: is not YAML: control characters are not allowed"),
        ("a: 'b\n", "is not YAML: found unexpected end of stream"),
        (b"a: b\nc: \xff\xfe\n", "f:2:4: the file is not UTF-8 text"),
        ("a: b\nc: \x07\n", "f:2:4: is not YAML: control characters are not allowed"),
        ("a: *b\n", "f:1:4: a: the alias `*b` names no anchor"),
        ("a: &x [*x]\n", "f:1:8: a[0]: the alias `*x` stands inside of what it names"),
        ("a: !!python/object:os.system x\n", "f:1:4: a: the YAML tag `tag:yaml.org,2002:python/object:os.system`"),
        ("? [a, b]\n: c\n", "f:1:3: a key must be a text"),
        ("a: 1\nb: {c: 1, c: 2}\n", "f:2:11: b.c: is written twice; the first one is on line 2"),
        ("<<: [1]\n", "`<<` takes a mapping"),
        ("%YAML 9.9\n---\na: 1\n", "f:1:1: is not YAML"),
    ],
)
def test_problems(text: str | bytes, problem: str) -> None:
    _, problems = tree(text)
    assert len(problems) == 1
    assert problem in problems[0]


def test_a_byte_order_mark_is_no_content() -> None:
    assert tree(b"\xef\xbb\xbfa: b\n") == ({"a": "b"}, [])


@pytest.mark.parametrize("nested", ["[" * 65 + "]" * 65, "\n".join(" " * n + "- " for n in range(70)) + "x"])
def test_nesting_is_bounded(nested: str) -> None:
    """65 levels are one ordinary problem, 64 are fine; 100,000 are no crash."""
    _, problems = tree(nested)
    assert problems == [problems[0]]
    assert "nested deeper than 64 levels" in problems[0]
    assert tree("[" * 64 + "]" * 64)[1] == []
    for bomb in (
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "\n".join(" " * n + "a:" for n in range(2000)),
    ):
        (problem,) = tree(bomb)[1]
        assert "nested deeper than 64 levels" in problem


def test_nesting_through_aliases_is_bounded() -> None:
    """An alias counts with the nesting of what it names."""
    text = "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 30 + "*a" + "]" * 30 + "\n"
    assert "nested deeper than 64" in tree(text)[1][0]


def laughs(levels: int, width: int) -> str:
    lines = ["a0: &a0 lol"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.alone
@pytest.mark.parametrize(
    "text", [laughs(9, 9), laughs(30, 2), "a: &a x\nb: [" + "*a," * 201 + "]\n", "- x\n" * 100_001]
)
def test_bombs_are_refused_at_once(text: str) -> None:
    """Billion laughs, many aliases and many values: refused within a second."""
    start = time.process_time()
    _, problems = tree(text)
    assert time.process_time() - start < 1
    assert len(problems) == 1
    assert "more than" in problems[0]


def test_a_huge_file_is_refused_by_its_length() -> None:
    assert "larger than 4 MiB" in tree(b"a: " + b"x" * (4 << 20))[1][0]


def test_the_pure_python_parser_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML came without libyaml."""
    texts = [HEAD, "a: [", "a: *b\n", "a: 1\n---\nb: 2\n", "a: \x07\n", "[" * 65 + "]" * 65, "a: b\n\tc: d\n"]
    fast = [tree(text) for text in texts]
    monkeypatch.setattr(yaml_tree, "_LOADER", yaml_tree.yaml.SafeLoader)
    assert "is not YAML" in tree("%YAML 1." + "9" * 5000 + "\n---\na: b\n")[1][0]
    assert "is not YAML" in tree('a: "\\UFFFFFFFF"')[1][0]
    slow = [tree(text) for text in texts]
    assert [found for found, _ in slow] == [found for found, _ in fast]
    assert [len(problems) for _, problems in slow] == [len(problems) for _, problems in fast]


def test_keys_cannot_break_a_line_of_output() -> None:
    """A key with a line break or a colour code is escaped in the problem."""
    _, problems = read(HEAD + '"a\\nb\\e[31m": 1\n')
    assert "a\\nb\\x1b[31m: is not a key" in str(problems[0])
    assert str(problems[0]).isprintable()


def test_a_value_is_shown_on_one_line() -> None:
    problem = only_problem(stream('«isolation: "po\\nol"'))
    assert str(problem).isprintable()


def test_the_place_of_an_aliased_value_is_the_alias() -> None:
    """A wrong value that came through an alias is told at the key that uses it."""
    text = HEAD.replace("com.example.shop", "&x com.example.shop")
    _, problems = read(text + "headless: *x\n")
    assert [problem.position for problem in problems] == [Position("Directive.yaml", 7, 1)]
