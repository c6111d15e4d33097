"""Statements as MySQL gets them, and columns as guests get them."""

from __future__ import annotations

import pytest

from atmo_farm.datasource.errors import CallFailed
from atmo_farm.datasource.mysql.values import Template, before, converters, template
from atmo_farm.datasource.statement import prepare
from atmo_farm.directive import sql
from atmo_farm.directive.model import Query


def made(text: str) -> Template:
    """The template of a query."""
    return template(prepare(Query("q", text, "select", sql.placeholders(text, "mysql").count), "mysql"))


def literal(value: str) -> bytes:
    """In place of the driver's."""
    return b"<%b>" % value.encode()


def test_render() -> None:
    """Literals stand where the variables stood; percent signs, question marks in strings and `??` are SQL."""
    statement = made("SELECT '%s ?', `ä?`, ?, ?? FROM t WHERE a LIKE '%' AND b = ? -- ?\n LIMIT ?")
    got = statement.render(literal, ["ö%s", b"\xff'", " 7 "])
    assert (
        got.decode() == "SELECT '%s ?', `ä?`, <ö%s>, ? FROM t WHERE a LIKE '%' AND b = _binary x'ff27' -- ?\n LIMIT 7"
    )


def test_render_by_number() -> None:
    """`$n` may come in any order, and again."""
    assert made("SELECT $2, $1, $2").render(literal, ["a", "b"]) == b"SELECT <b>, <a>, <b>"


@pytest.mark.parametrize("value", ["1 OR 1", "", "-1", "1.0", "٣", "0x10", "1" * 20, b"\xff"])
def test_counts(value: str | bytes) -> None:
    """Behind LIMIT only a whole number can stand."""
    with pytest.raises(CallFailed, match="whole number"):
        made("SELECT 1 LIMIT ?").render(literal, [value])


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("SELECT 1", ()),
        ("SELECT COUNT (*), `My``f`(?), 'x' (1), \"y\"(1) FROM t WHERE a IN (1) -- z(", ("count", "in", "my``f")),
        ("SELECT f /* g( */ (1), (h)", ("f",)),
    ],
)
def test_calls(text: str, calls: tuple[str, ...]) -> None:
    """What may be the name of a function."""
    assert made(text).calls == calls


def test_only_reads() -> None:
    """Not where words are hidden that the server sees."""
    assert made("SELECT 1 /* ! */ + 1").only_reads
    assert not made("SELECT 1 /*! INTO OUTFILE 'x' */ + 1").only_reads
    assert not made("INSERT INTO t VALUES (1)").only_reads


def test_before() -> None:
    """A comment cannot end early, or become SQL that some servers run."""
    assert before("") == b""
    assert before("app=x") == b"/* app=x */ "
    assert before("*/ DROP") == b"/* * / DROP */ "
    assert before("!50000 DROP").startswith(b"/* !")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("/* a */ -- b\n (SELECT 1)", "select"),
        ("create table t (a int)", "create"),
        ("/*!50000 CREATE */ TABLE t (a int)", ""),
        ("/*M! DROP */ TABLE t", ""),
        ("SELECT 1 /*! + 1 */", "select"),
    ],
)
def test_first_word(text: str, first: str) -> None:
    """Not a comment's, unless the server takes that for SQL: then nobody knows."""
    assert made(text).first_word == first


@pytest.mark.parametrize(
    "text",
    ["CREATE TABLE t (a int)", "truncate t", "ALTER TABLE t ADD b int", "/*! DROP TABLE t */", "RENAME TABLE a TO b"],
)
def test_commits(text: str) -> None:
    """What ends a transaction before it runs."""
    assert made(text).commits


@pytest.mark.parametrize(
    "text", ["BEGIN", "start transaction", "COMMIT", "SET autocommit = 0", "USE x", "LOCK TABLES t READ"]
)
def test_control(text: str) -> None:
    """What changes a connection that others share."""
    assert made(text).is_control


@pytest.mark.parametrize(
    "text", ["SELECT 1", "INSERT INTO t VALUES (1)", "SET STATEMENT max_statement_time = 1 FOR SELECT 1"]
)
def test_ordinary(text: str) -> None:
    """All others."""
    assert not made(text).is_control
    assert not made(text).commits


@pytest.mark.parametrize(
    ("text", "has"),
    [
        (r"SELECT 'a\'b'", True),
        (r'SELECT "a\"b"', True),
        (r"SELECT `a\`", True),
        (r"SELECT 1 -- \ ", False),
        ("SELECT 'a''b'", False),
    ],
)
def test_backslash(text: str, has: bool) -> None:
    """In quotes; what it is there depends on the server's mode."""
    assert made(text).has_backslash is has


def test_times_in_a_zone_of_the_dsn() -> None:
    """They do not claim to be UTC."""
    (utc, local) = (converters(has_own_zone)[12]("2026-01-31 23:59:59") for has_own_zone in (False, True))
    assert (utc, local) == ("2026-01-31T23:59:59Z", "2026-01-31T23:59:59")
    assert converters(False)[7]("0000-00-00 00:00:00") == "0000-00-00T00:00:00Z"
