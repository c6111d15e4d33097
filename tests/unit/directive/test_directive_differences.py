"""What is told of Atmo: only what touches the Directive at hand, at its first place, as docs/from-atmo.md has it."""

from __future__ import annotations

import re

import pytest

from atmo_farm.directive import differences
from atmo_farm.directive.differences import DIFFERENCES, Note
from atmo_farm.directive.parse import Texts, parse
from atmo_farm.directive.report import Report
from atmo_farm.settings import HandlerDefaults
from tests.guests import ROOT
from tests.unit.directive.support import FILE, HEAD, marked, runnable_files, stream, with_handlers

TOPICS = {difference.topic: difference.text for difference in DIFFERENCES}
KAFKA = HEAD + "  kafka:\n    brokerAddress: localhost\n"
MYSQL = HEAD + "  database: {type: mysql, connectionString: /d}\nqueries:\n"
QUIET = "envelope: raw\ngroup: off\n"


def notes(text: str, functions: tuple[str, ...] = ("hello", "upper")) -> dict[str, Note]:
    """By topic."""
    report = Report()
    parsed = parse(Texts(FILE, text.encode(), runnables=runnable_files(functions)), HandlerDefaults(), report)
    assert not report.has_errors, [str(problem) for problem in report.problems]
    names = {difference.text: difference.topic for difference in DIFFERENCES}
    return {names[note.message]: note for note in differences.notes(parsed)}


CASES = {
    "Payloads": (
        with_handlers("- «type: stream\n  source: nats\n  resource: a\n  steps: [{fn: hello}]"),
        "handlers[0]",
    ),
    "Answers": (with_handlers("- «type: stream\n  source: nats\n  resource: a\n  steps: [{fn: hello}]"), "handlers[0]"),
    "Failed messages": (stream(QUIET + "«respondTo: b"), "handlers[0].respondTo"),
    "Several instances": (
        with_handlers(
            "- {type: stream, source: nats, resource: a, group: off, steps: [{fn: hello}]}\n"
            "- «{type: stream, source: nats, resource: b, steps: [{fn: hello}]}"
        ),
        "handlers[1]",
    ),
    "Kafka's place": (
        with_handlers("- «type: stream\n  source: kafka\n  resource: a\n  steps: [{fn: hello}]", KAFKA),
        "handlers[0]",
    ),
    "Groups of functions": (
        stream(steps="[{fn: hello}, {group: [{fn: upper}, «{fn: hello, with: {a: hello}}]}, {fn: hello}]"),
        "handlers[0].steps[1].group[1]",
    ),
    "Capabilities": (HEAD + "capabilities:\n  logger: {enabled: true}\n  «cache: {}\n", "capabilities.cache"),
    "HTTP rules": (
        HEAD + "capabilities:\n  «http: {enabled: true, rules: {allowHTTP: false}}\n",
        "capabilities.http",
    ),
    "Counting variables": (
        HEAD + "queries:\n  - {name: p, query: SELECT $1}\n  - «{name: q, query: 'SELECT $1, $1'}\n",
        "queries[1]",
    ),
    "Texts of MySQL": (MYSQL + "  - «{name: q, query: SELECT 1}\n", "queries[0]"),
}


@pytest.mark.parametrize(("topic", "case"), CASES.items(), ids=CASES)
def test_where_it_shows(topic: str, case: tuple[str, str]) -> None:
    """At the first place in the file that it touches."""
    text, position = marked(case[0])
    note = notes(text)[topic]
    assert (note.position, note.key) == (position, case[1])
    assert str(note) == f"{position}: note: {case[1]}: {TOPICS[topic]}"


def test_groups_of_schedules_count_too() -> None:
    text, position = marked(
        HEAD + "schedules:\n  - name: s\n    every: {days: 1}\n"
        "    steps: [{group: [«{fn: hello, onErr: {any: continue}}]}]\n"
    )
    assert notes(text)["Groups of functions"].position == position


def test_functions_of_one_name() -> None:
    """At the function's own file."""
    note = notes(stream(), ("hello", "db::hello", "upper"))["Functions of one name"]
    assert (note.position.file, note.key) == ("hello/.runnable.yaml", "db::hello")


def test_every_difference_has_a_test() -> None:
    assert set(TOPICS) == {*CASES, "Functions of one name"}


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        with_handlers("- {type: request, method: GET, resource: /a, steps: [{fn: hello}]}"),
        HEAD + "capabilities:\n  requestHandler: {enabled: true, allowGetField: true, allowSetField: false}\n",
        HEAD + "queries:\n  - {name: q, query: 'SELECT $1, $2'}\n  - {name: r, query: 'SELECT ?'}\n",
        HEAD + "queries:\n  - {name: q, query: 'SELECT $1, $1', varCount: 2}\n",
        MYSQL + "  - {name: q, query: DELETE FROM t}\n",
    ],
)
def test_what_is_no_difference(text: str) -> None:
    assert notes(text) == {}


def test_a_handler_that_says_all() -> None:
    """Keys that the farm added leave little to be told."""
    assert set(notes(stream(QUIET + "respondTo: b"))) == {"Failed messages"}


def test_in_the_order_of_the_file() -> None:
    found = notes(with_handlers("- {type: stream, source: nats, resource: a, steps: [{fn: hello}]}", MYSQL[:-9]))
    assert [note.position.line for note in found.values()] == sorted(note.position.line for note in found.values())


def test_the_docs_have_each_of_them() -> None:
    """A row of docs/from-atmo.md for each topic, and no topic twice."""
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs/from-atmo.md").read_text(encoding="utf-8"), re.MULTILINE)
    topics = [row for row in rows if row != "topic"]
    assert len(set(topics)) == len(topics)
    assert set(TOPICS) <= set(topics)
