"""Where the reader of the user's files writes down what it finds, so that all of it can be told at once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from atmo_farm.errors import Position, Problem

_SHOWN_CHARACTERS = 60
_SHOWN_WORDS = 10
_LINE_CHARACTERS = 200
_WORD_CHARACTERS = 100
"""Longer words are no misspelt names."""
_COMPARISONS = 20_000
"""What the hints of one report may cost; a file with thousands of problems is no misspelt one."""


class Report:
    """Collects problems while files are read; nothing is raised before everything was looked at."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.not_served: list[Problem] = []
        """What is right but cannot be run by this build yet."""
        self._comparisons = _COMPARISONS

    def error(self, position: Position, key: str, message: str) -> None:
        """The files cannot be used as they are."""
        self.problems.append(Problem(position, one_line(key), message))

    def warn(self, position: Position, key: str, message: str) -> None:
        """The files can be used, but may not mean what their author thinks."""
        self.problems.append(Problem(position, one_line(key), message, "warning"))

    def later(self, position: Position, key: str, message: str) -> None:
        """The language knows it, this build does not run it: told as a warning, refused by start and reload."""
        self.not_served.append(Problem(position, one_line(key), message, "warning"))

    def hint(self, word: str, known: Collection[str], otherwise: str = "") -> str:
        """`; did you mean X?`, else `; <otherwise> A, B or C`, to end a message about an unknown word.

        Nothing once the report holds very many hints: each one costs time.
        """
        self._comparisons -= len(known)
        if self._comparisons < 0:
            return ""
        near = did_you_mean(word, known)
        if near or not otherwise or not known:
            return near
        return f"; {otherwise} {listed(sorted(known)[:_SHOWN_WORDS])}"

    @property
    def has_errors(self) -> bool:
        """Whether anything so far forbids the use of the files."""
        return any(problem.severity == "error" for problem in self.problems)

    def wrong_files(self) -> set[str]:
        """The files that hold errors."""
        return {problem.position.file for problem in self.problems if problem.severity == "error"}

    def warnings(self) -> tuple[Problem, ...]:
        """The warnings, in the order of their places."""
        return in_order(problem for problem in self.problems if problem.severity == "warning")


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """By file, line and column; errors before warnings of the same place."""
    return tuple(sorted(problems, key=lambda problem: (problem.position, problem.severity, problem.key)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no known word is near."""
    near = nearest(word, known)
    return f"; did you mean {shown(near)}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like this one; empty when none is near."""
    if len(word) > _WORD_CHARACTERS:
        return ""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    if near:
        return near[0]
    return {name.casefold(): name for name in known}.get(word.casefold(), "")


def shown(text: str) -> str:
    """A user's value as it may stand in a message: one line, escaped, not too long."""
    return f"`{one_line(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '…')}`"


def one_line(text: str) -> str:
    """The text with everything escaped that could break or colour a line, and not longer than a line should be."""
    if len(text) > _LINE_CHARACTERS:
        text = text[:_LINE_CHARACTERS] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def listed(words: Iterable[str]) -> str:
    """`a`, `b` or `c`."""
    quoted = [shown(word) for word in words]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
