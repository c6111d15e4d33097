"""The JSON Schema and the key reference: made from the tables that read the files, never stricter than the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atmo_farm.directive import documents, yaml_tree
from atmo_farm.directive.keys.shapes import Table
from atmo_farm.directive.report import Report
from atmo_farm.directive.schema import json_schema
from tests.guests import ROOT
from tests.unit.directive.made import mutated, values
from tests.unit.directive.support import HEAD, stream, with_handlers
from tests.unit.directive.test_directive_bundle import ATMO, EVERYTHING

SCHEMA = json_schema()
TABLES = {table.name: table for table in documents._all_tables()}


class Editor(yaml.SafeLoader):
    """YAML 1.2's types, as editors have them: only `true` and `false` are truth values."""


Editor.yaml_implicit_resolvers = {
    sign: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:bool" or sign in "tf"]
    for sign, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def typed(text: str) -> Any:
    """What an editor makes of a file."""
    return yaml.load(text, Loader=Editor)


def refused(instance: Any, table: str = "") -> str:
    """What the schema has against a value; empty when it is valid."""
    schema = {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{table}"} if table not in ("", "Directive") else SCHEMA
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(instance))
    return f"{error.json_path}: {error.message}" if error else ""


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_files_are_made_from_the_tables() -> None:
    """`python -m atmo_farm.directive.documents` writes them; both are as it would write them now."""
    reference = (ROOT / documents.REFERENCE).read_text(encoding="utf-8")
    assert (ROOT / documents.SCHEMA).read_text(encoding="utf-8") == documents.schema_text()
    assert reference == documents.reference_text(reference)


def test_writing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what stands between the marks is made anew."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/directive.md").write_text(f"before\n{documents.BEGIN}to be replaced\n{documents.END}after\n")
    monkeypatch.chdir(tmp_path)
    documents.main()
    text = (tmp_path / "docs/directive.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "to be replaced" not in text
    assert "| `identifier` |" in text
    assert json.loads((tmp_path / "conf/directive.schema.json").read_text()) == SCHEMA
    with pytest.raises(ValueError, match="lacks its marks"):
        documents.reference_text("no marks")


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/Directive.yaml")), ids=lambda path: path.parent.name)
def test_examples(path: Path) -> None:
    """What an editor makes of each example, with YAML's own types, is valid."""
    assert refused(typed(path.read_text())) == ""


@pytest.mark.parametrize(
    "text",
    [HEAD, stream(), with_handlers(EVERYTHING), ATMO, stream("workers: '2'\ntimeout: 1h\ndeadLetter: false\nretry:")],
    ids=["head", "stream", "everything", "atmo", "quotes and nulls"],
)
def test_good_files(text: str) -> None:
    assert refused(typed(text)) == ""


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (HEAD + "handler: []\n", "$"),
        (stream("worker: 2"), "$.handlers[0]"),
        (stream("workers: many"), "$.handlers[0].workers"),
        (stream("isolation: pool"), "$.handlers[0].isolation"),
        (stream("retry: {attempts: 0}"), "$.handlers[0].retry"),
        (HEAD.replace("v1.0.0", "1.0.0"), "$.appVersion"),
        (HEAD.replace("identifier", "identifer"), "$"),
        (with_handlers("- {type: stream, source: nats, resource: a}"), "$.handlers[0]"),
    ],
)
def test_mistakes_that_an_editor_shows(text: str, place: str) -> None:
    """Unknown and missing keys, wrong words and numbers out of range."""
    assert refused(typed(text)).startswith(place)


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", 0, -1, 2, 1.5, True, False, [], {}, [None], {"a": "b"}, "x", "off", "env(X)", "9"]
)
TABLES_AND_VALUES = st.sampled_from(sorted(TABLES)).flatmap(lambda name: st.tuples(st.just(name), values(TABLES[name])))


def is_accepted(table: Table, instance: Any) -> bool:
    """Whether the reader takes the value for a mapping of this table."""
    report = Report()
    node = yaml_tree.parse(yaml.safe_dump(instance, allow_unicode=True).encode(), "f", report)
    if node is not None:
        table.read(node, "", node.position, report)
    return not report.has_errors


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(TABLES_AND_VALUES, st.data())
def test_the_schema_takes_all_that_the_reader_takes(made: tuple[str, Any], data: st.DataObject) -> None:
    """Values of each table, and the same with mistakes: what is read without an error is no error in an editor."""
    name, instance = made
    for one in (instance, data.draw(mutated(instance, ODD))):
        if is_accepted(TABLES[name], one):
            assert refused(one, name) == "", one


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(TABLES_AND_VALUES)
def test_the_schema_takes_all_that_the_tables_make(made: tuple[str, Any]) -> None:
    """Also where the reader looks closer, as at an address."""
    name, instance = made
    assert refused(instance, name) == "", instance
