"""One tokenizer for SQL, enough of it to find placeholders, words and the ends of strings; and what they mean.

The rule for placeholders (on every backend): a query that contains `$1` uses `$n`, and its `?` is SQL's own; else `?`
counts and `??` is a literal `?`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import starmap
from typing import Any, Literal

import attrs

Dialect = Literal["postgresql", "mysql", "sqlite"]
QueryType = Literal["select", "insert", "update", "delete"]
MAX_VARIABLES = 65535

_DASHES = r"(?P<comment>--[^\n]*+)"
_COMMON = r"""
    (?P<blank>\s++)
  | {comment}
  | (?P<block>/\*)
  | (?P<string>{string})
  | (?P<identifier>{identifier})
  | (?P<dollar>{dollar})
  | (?P<numbered>\$\d++)
  | (?P<word>[^\W\d][\w$]*+)
  | (?P<number>\d[\w.]*+)
  | (?P<escaped>\?\?)
  | (?P<question>\?)
  | (?P<other>[^\s\w'"`$?/\-#\[;]++|.)
"""
_PLAIN_STRING = r"'(?:[^']++|'')*+'"
_ESCAPED_STRING = r"'(?:[^'\\]++|''|\\.)*+'"
_NEVER = r"(?!)"


def _rules(comment: str, string: str, identifier: str, dollar: str) -> re.Pattern[str]:
    rules = _COMMON.format(comment=comment, string=string, identifier=identifier, dollar=dollar)
    return re.compile(rules, re.VERBOSE | re.DOTALL)


_RULES: dict[Dialect, re.Pattern[str]] = {
    "postgresql": _rules(
        _DASHES,
        rf"[eE]{_ESCAPED_STRING}|{_PLAIN_STRING}",
        r'"(?:[^"]++|"")*+"',
        r"\$(?:[^\W\d]\w*+)?\$",
    ),
    "mysql": _rules(
        r"(?P<comment>(?:--(?=\s|\Z)|\#)[^\n]*+)",
        _ESCAPED_STRING + r'|"(?:[^"\\]++|""|\\.)*+"',
        r"`(?:[^`]++|``)*+`",
        _NEVER,
    ),
    "sqlite": _rules(
        _DASHES,
        _PLAIN_STRING,
        r'"(?:[^"]++|"")*+"|`(?:[^`]++|``)*+`|\[[^\]]*+\]',
        _NEVER,
    ),
}


@attrs.frozen
class Token:
    """A piece of SQL: `sql[start:end]`."""

    kind: Literal[
        "blank", "comment", "string", "identifier", "numbered", "word", "number", "escaped", "question", "other"
    ]
    start: int
    end: int


@attrs.frozen
class Placeholders:
    """The variables of a query."""

    style: Literal["none", "numbered", "question"]
    count: int
    tokens: tuple[Token, ...]
    """The placeholders, in order, and (style question) the `??` that stand for a literal `?`."""


def tokens(sql: str, dialect: Dialect) -> Iterator[Token]:
    """All of the text, piece by piece; ValueError when a string, quoted name or comment does not end."""
    return starmap(Token, _pieces(sql, dialect))


def _pieces(sql: str, dialect: Dialect) -> Iterator[tuple[Any, int, int]]:
    """The tokens' fields: most tokens are only looked at and need no object."""
    match_at = _RULES[dialect].match
    position = 0
    while position < len(sql):
        match = match_at(sql, position)
        assert match is not None  # the last rule takes any character
        kind, end = str(match.lastgroup), match.end()
        if kind == "block":
            kind, end = "comment", _block_comment_end(sql, position, nested=dialect == "postgresql")
        elif kind == "dollar":
            kind, end = "string", _closed(sql.find(match[0], end), len(match[0]), "a dollar-quoted string")
        elif kind == "other" and match[0] in "'\"`" and not (match[0] == "`" and dialect == "postgresql"):
            raise ValueError(f"the quote {match[0]} has no end")
        yield kind, position, end
        position = end


def _closed(found: int, length: int, what: str) -> int:
    if found < 0:
        raise ValueError(f"{what} has no end")
    return found + length


def _block_comment_end(sql: str, start: int, nested: bool) -> int:
    depth, position = 1, start + 2
    for match in re.compile(r"/\*|\*/").finditer(sql, position):
        if match.start() < position:
            continue
        position = match.end()
        if match[0] == "*/":
            depth -= 1
        elif nested:
            depth += 1
        if not depth:
            return position
    raise ValueError("a comment has no end")


def is_passed_over(kind: str, text: str, dialect: Dialect) -> bool:
    """Whether a piece is nothing to the server: blank, or a comment but for those that MySQL runs."""
    return kind == "blank" or (kind == "comment" and not (dialect == "mysql" and text.startswith(("/*!", "/*M!"))))


def placeholders(sql: str, dialect: Dialect) -> Placeholders:
    """The variables of a query; ValueError when they are mixed, when the text does not end well, or when it holds no
    statement, several, or what no encoding of Unicode has."""
    if any("\ud800" <= character <= "\udfff" for character in sql if not character.isascii()):
        raise ValueError("holds half of a surrogate pair")
    found: list[Token] = []
    is_over, is_empty = False, True
    for kind, start, end in _pieces(sql, dialect):
        if kind in ("numbered", "question", "escaped"):
            found.append(Token(kind, start, end))
        if sql[start:end] == ";":
            is_over = True
        elif not is_passed_over(kind, sql[start:end], dialect):
            is_empty = False
            if is_over:
                raise ValueError("holds several statements; a query is one")
    if is_empty:
        raise ValueError("holds no statement")
    numbered = tuple(token for token in found if token.kind == "numbered")
    if not numbered:
        count = sum(token.kind == "question" for token in found)
        return Placeholders("question" if found else "none", count, tuple(found))
    if any(token.kind == "escaped" or dialect != "postgresql" for token in found if token.kind != "numbered"):
        raise ValueError("mixes `$n` and `?`; use one of them")
    numbers = {int(sql[token.start + 1 : min(token.end, token.start + 8)]) for token in numbered}
    if 0 in numbers or max(numbers) > MAX_VARIABLES:
        raise ValueError(f"variables are counted from `$1` to `${MAX_VARIABLES}`")
    return Placeholders("numbered", max(numbers), numbered)


def query_type(sql: str, dialect: Dialect) -> QueryType:
    """What a query does, from its first word; for `with`, from the statement after the common table expressions.

    ValueError when that word is none of select, insert, update and delete.
    """
    depth = 0
    first = ""
    for kind, start, end in _pieces(sql, dialect):
        text = sql[start:end]
        if kind == "other":
            depth += text.count("(") - text.count(")")
        if kind != "word":
            continue
        word = text.lower()
        if word in ("select", "insert", "update", "delete") and (not first or depth == 0):
            return word  # type: ignore[return-value]
        if not first and word != "with":
            raise ValueError(f"the type cannot be told from its first word `{text[:40]}`; set `type`")
        first = first or word
    raise ValueError("holds no statement")
