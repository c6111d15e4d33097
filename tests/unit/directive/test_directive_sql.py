"""The tokenizer, what it finds in queries, and how Queries.yaml is merged."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atmo_farm.directive import sql
from tests.unit.directive.support import HEAD, good, read

DIALECTS: tuple[sql.Dialect, ...] = ("postgresql", "mysql", "sqlite")

COUNTS = [
    ("postgresql", "SELECT 1", "none", 0),
    ("postgresql", "SELECT $1, $2, $1", "numbered", 2),
    ("postgresql", "SELECT ?, ?", "question", 2),
    ("postgresql", "SELECT ?? , ?", "question", 1),
    ("postgresql", "SELECT '?', \"?\", -- ?\n /* ? /* ? */ ? */ ?", "question", 1),
    ("postgresql", "SELECT E'\\'?', 'it''s ?', ?", "question", 1),
    ("postgresql", "SELECT 'a\\', ?", "question", 1),
    ("postgresql", "SELECT $$ ? $1 $$, $x$ ? $$ $x$, $1", "numbered", 1),
    ("postgresql", "SELECT data ? 'a', data ?| $1 FROM t", "numbered", 1),
    ("postgresql", 'SELECT a$1, "b"', "none", 0),
    ("postgresql", "SELECT x FROM t WHERE a=$1 AND b=$12", "numbered", 12),
    ("mysql", "SELECT `?`, \"?\", '\\'?', ? # ?", "question", 1),
    ("mysql", "SELECT 1--?\n", "question", 1),
    ("mysql", "SELECT 1 -- ?\n, ?", "question", 1),
    ("mysql", "SELECT $1, $2", "numbered", 2),
    ("mysql", "SELECT /* ? /* */ ?", "question", 1),
    ("sqlite", 'SELECT [?], `?`, "?", ?', "question", 1),
    ("sqlite", "SELECT '\\', ?", "question", 1),
]


@pytest.mark.parametrize(("dialect", "text", "style", "count"), COUNTS)
def test_placeholders(dialect: sql.Dialect, text: str, style: str, count: int) -> None:
    """Only those outside of strings, quoted names and comments count."""
    found = sql.placeholders(text, dialect)
    assert (found.style, found.count) == (style, count)


@pytest.mark.parametrize(
    ("dialect", "text", "message"),
    [
        ("mysql", "SELECT $1, ?", "mixes"),
        ("sqlite", "SELECT ?, $1", "mixes"),
        ("postgresql", "SELECT $1, ??", "mixes"),
        ("postgresql", "SELECT $0", "counted from `$1`"),
        ("postgresql", "SELECT $99999999999999999999", "counted from `$1`"),
        ("postgresql", "SELECT 'a", "the quote ' has no end"),
        ("postgresql", 'SELECT "a', 'the quote " has no end'),
        ("mysql", "SELECT `a", "the quote ` has no end"),
        ("postgresql", "SELECT $a$ $$", "dollar-quoted string has no end"),
        ("postgresql", "SELECT /* /* */", "a comment has no end"),
        ("postgresql", "SELECT 1; DROP TABLE t", "several statements"),
        ("postgresql", "SELECT (1); DELETE FROM t", "several statements"),
        ("mysql", "SELECT ?; -- done\n; SELECT 2", "several statements"),
    ],
)
def test_queries_that_are_none(dialect: sql.Dialect, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("$", r"\$")):
        sql.placeholders(text, dialect)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("SELECT 1", "select"),
        ("  -- update\n /* delete */ InSeRt INTO t VALUES (1)", "insert"),
        ("(SELECT 1) UNION (SELECT 2)", "select"),
        ("WITH x AS (SELECT 1) SELECT * FROM x", "select"),
        ("with recursive x as (select 1 union select 2) update t set a = 1", "update"),
        ("WITH x AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM x", "insert"),
        ("delete from t", "delete"),
    ],
)
def test_types(text: str, kind: str) -> None:
    assert sql.query_type(text, "postgresql") == kind


@pytest.mark.parametrize("text", ["", "-- nothing", "CALL x()", "EXPLAIN SELECT 1", "WITH x AS (SELECT 1)", "123"])
def test_types_that_cannot_be_told(text: str) -> None:
    with pytest.raises(ValueError):
        sql.query_type(text, "postgresql")


@settings(max_examples=300, deadline=None)
@given(st.text("abE'\"`$1?-#/*[]()\\\n x", max_size=60), st.sampled_from(DIALECTS))
def test_tokens_are_the_whole_text(text: str, dialect: sql.Dialect) -> None:
    """The pieces follow each other without gap, or the text has no end."""
    try:
        tokens = list(sql.tokens(text, dialect))
    except ValueError:
        return
    assert "".join(text[token.start : token.end] for token in tokens) == text


@pytest.mark.parametrize(
    "text", ["'" + "''" * 200_000, "/*" * 200_000, "$a$" * 100_001, "E'" + "\\'" * 200_000, "(" * 400_000]
)
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    for dialect in DIALECTS:
        try:
            sql.placeholders(text, dialect)
        except ValueError:
            pass
    assert time.process_time() - start < 2


def test_queries_of_both_files_are_one_list() -> None:
    """Queries.yaml comes after the Directive's own; types and counts are filled in."""
    directive = good(
        HEAD + "queries:\n  - {name: a, query: 'SELECT ?'}\n",
        queries="queries:\n  - name: b\n    query: |\n      INSERT INTO t\n      VALUES ($1, $2)\n",
    )
    assert [(q.name, q.type, q.var_count) for q in directive.queries] == [("a", "select", 1), ("b", "insert", 2)]
    assert directive.queries[1].position.file == "Queries.yaml"


@pytest.mark.parametrize("queries", ["", "# none\n", "queries:\n", "queries: []\n"])
def test_an_empty_queries_file_is_fine(queries: str) -> None:
    assert good(HEAD, queries).queries == ()


def test_the_name_of_a_query_is_there_once_in_both_files() -> None:
    _, problems = read(
        HEAD + "queries:\n  - {name: a, query: SELECT 1}\n", "queries:\n  - {name: a, query: SELECT 1}\n"
    )
    assert [str(problem) for problem in problems] == [
        "Queries.yaml:2:6: queries[0].name: the query name `a` is taken; the other is in Directive.yaml, line 8"
    ]


def test_the_dialect_follows_the_database() -> None:
    """In MySQL `#` begins a comment."""
    text = HEAD + "  database: {type: mysql, connectionString: /d}\nqueries:\n  - {name: a, query: 'SELECT ? # ?'}\n"
    assert good(text).queries[0].var_count == 1


def test_a_written_zero_is_counted_too() -> None:
    """As Atmo does, and without a warning."""
    directive, problems = read(HEAD + "queries:\n  - {name: a, query: 'SELECT ?', varCount: 0}\n")
    assert directive is not None
    assert (directive.queries[0].var_count, problems) == (1, ())


def test_a_written_count_that_differs_is_warned_of() -> None:
    directive, problems = read(HEAD + "queries:\n  - {name: a, query: SELECT ?, varCount: 2}\n")
    assert directive is not None
    assert directive.queries[0].var_count == 2
    assert [(problem.severity, problem.key) for problem in problems] == [("warning", "queries[0].varCount")]
