"""Queries, cut at their placeholders."""

from __future__ import annotations

import pytest

from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.statement import Slot, Statement, prepare, variable, whole_number
from atmo_farm.directive import sql
from atmo_farm.directive.model import Query


def cut(
    text: str, dialect: sql.Dialect = "postgresql", type_: sql.QueryType = "select", var_count: int = 0
) -> Statement:
    return prepare(Query("q", text, type_, var_count, "default"), dialect)


@pytest.mark.parametrize(
    ("text", "rendered", "count"),
    [
        ("SELECT 1", "SELECT 1", 0),
        ("SELECT ?, ?", "SELECT <0>, <1>", 2),
        ("SELECT $2, $1, $2", "SELECT <1>, <0>, <1>", 2),
        ("SELECT ?? , ?", "SELECT ? , <0>", 1),
        ("SELECT a ? $1", "SELECT a ? <0>", 1),
        ("SELECT '?', \"?\", $$?$$ /* ? */, ?", "SELECT '?', \"?\", $$?$$ /* ? */, <0>", 1),
        ("  SELECT ? ; -- the end ?\n", "  SELECT <0>", 1),
        ("SELECT 1 -- one\n + ?", "SELECT 1 -- one\n + <0>", 1),
        ("SELECT 1 /* end */ ; ; ", "SELECT 1", 0),
        ("SELECT %s '%' %(a)s", "SELECT %s '%' %(a)s", 0),
    ],
)
def test_render(text: str, rendered: str, count: int) -> None:
    """Everything but placeholders stays; what stands behind the statement goes."""
    statement = cut(text)
    assert statement.render(lambda slot: f"<{slot.index}>") == rendered
    assert statement.var_count == count


def test_comments_that_mysql_runs() -> None:
    """They are a part of the statement, wherever they stand."""
    assert cut("SELECT ? /*! + 1 */ -- end", "mysql").render(lambda _: "1") == "SELECT 1 /*! + 1 */"
    assert cut("/*M! DROP TABLE t */ # end", "mysql").parts == ("/*M! DROP TABLE t */",)
    assert cut("SELECT 1 /*! + 1 */", "sqlite").parts == ("SELECT 1",)
    with pytest.raises(ValueError, match="several"):
        cut("SELECT 1; /*! DROP TABLE t */", "mysql")


def test_positional() -> None:
    """For drivers that take values apart from the text."""
    assert cut("SELECT $2, $1, $2").positional() == ("SELECT ?, ?, ?", (1, 0, 1))
    assert cut("SELECT ?, '?'").positional("%s") == ("SELECT %s, '?'", (0,))


@pytest.mark.parametrize("given", [0, 1, 2, 7])
def test_the_number_of_variables_is_the_query_s(given: int) -> None:
    """Whatever `varCount` says: a query cannot do with fewer or more."""
    assert cut("SELECT $1, $2", var_count=given).var_count == 2


@pytest.mark.parametrize("text", ["SELECT 1; SELECT 2", "SELECT '\ud800'", "SELECT 'a", ";"])
def test_no_statements(text: str) -> None:
    with pytest.raises(ValueError, match=r"holds|has no end"):
        cut(text)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("SELECT a FROM t LIMIT ?", [True]),
        ("SELECT a FROM t LIMIT ? OFFSET ?", [True, True]),
        ("SELECT a FROM t LIMIT ?, ?", [True, True]),
        ("SELECT a FROM t LIMIT 5, ?", [True]),
        ("SELECT a FROM t LIMIT /* most */ ?", [True]),
        ("SELECT a FROM t OFFSET ? ROWS FETCH NEXT ? ROWS ONLY", [True, True]),
        ("SELECT a FROM t WHERE first = ? AND next IN (?, ?) AND offset = ?", [False] * 4),
        ("SELECT a FROM t WHERE a = ? LIMIT 1", [False]),
        ("SELECT f(?, ?)", [False, False]),
        ("SELECT (SELECT a FROM t LIMIT ?), ?", [True, False]),
    ],
)
def test_counts(text: str, counts: list[bool]) -> None:
    """Placeholders behind LIMIT, OFFSET and FETCH, and nowhere else."""
    assert [part.is_count for part in cut(text, "mysql").parts if isinstance(part, Slot)] == counts


@pytest.mark.parametrize(
    ("text", "only_reads"),
    [
        ("SELECT * FROM t", True),
        ("(SELECT 1) UNION SELECT 2", True),
        ("-- a\nWITH x AS (SELECT 1) SELECT * FROM x", True),
        ("VALUES (1)", True),
        ("TABLE t", True),
        ("SELECT 'delete', \"update\" FROM t -- insert", True),
        ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", False),
        ("SELECT * INTO u FROM t", False),
        ("SELECT * FROM t FOR UPDATE", False),
        ("INSERT INTO t VALUES (1) RETURNING id", False),
        ("EXPLAIN SELECT 1", False),
        ("CALL f()", False),
    ],
)
def test_only_reads(text: str, only_reads: bool) -> None:
    assert cut(text).only_reads is only_reads
    assert not cut(text, type_="insert").only_reads


def test_has_limit() -> None:
    """In a subquery, too: that is to be on the safe side."""
    assert not cut("SELECT a AS \"limit\", 'limit' FROM t -- limit").has_limit
    for text in (
        "SELECT a FROM t LIMIT 1",
        "SELECT (SELECT 1 FETCH FIRST ROW ONLY)",
        "SELECT a FROM t Limit ? OFFSET 2",
    ):
        assert cut(text).has_limit


def test_variables() -> None:
    """Text where it is UTF-8."""
    assert variable("ä\0".encode()) == "ä\0"
    assert variable(b"\xff") == b"\xff"
    assert variable(b"\xed\xa0\x80") == b"\xed\xa0\x80"
    assert variable(b"") == ""


@pytest.mark.parametrize("value", ["5", " 12\n", "0", "9999999999999999999"])
def test_whole_numbers(value: str) -> None:
    assert whole_number(value) == value.strip()


@pytest.mark.parametrize(
    "value", ["", "-1", "1.5", "1e3", "٣", "1 OR 1", "0x10", "99999999999999999999", b"\xff", b"5"]
)
def test_no_whole_numbers(value: str | bytes) -> None:
    with pytest.raises(CallFailed, match="whole number") as caught:
        whole_number(value)
    assert "OR" not in str(caught.value).replace("OFFSET", "").replace(" or ", "")
