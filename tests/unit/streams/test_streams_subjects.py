"""Subjects: which may be published on, and which subscription gets them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo_farm.streams import subjects

TOKENS = st.sampled_from(["a", "b", "*", ">", "a*", "b>c"])


@pytest.mark.parametrize("subject", ["a", "a.b.c", "$JS.API", "_INBOX.x-1", "ä.ö", "a*b.c>d", "x" * 2048, "a/b"])
def test_subjects_that_can_be_published_on(subject: str) -> None:
    """Tokens of any characters but blanks and dots; a star inside of a token is a character."""
    assert subjects.problem(subject) == ""


@pytest.mark.parametrize(
    ("subject", "why"),
    [
        ("", "tokens"),
        ("a b", "blanks"),
        ("a\tb", "blanks"),
        ("a\r\nPUB b 0", "blanks"),
        ("a\x00", "blanks"),
        (".a", "empty tokens"),
        ("a.", "empty tokens"),
        ("a..b", "empty tokens"),
        ("*", "wildcard"),
        ("a.*.b", "wildcard"),
        ("a.>", "wildcard"),
        (">", "wildcard"),
        ("\ud800", "Unicode"),
        ("x" * 2049, "2048 bytes"),
        ("ä" * 1025, "2048 bytes"),
    ],
)
def test_subjects_that_cannot(subject: str, why: str) -> None:
    """Each with its reason; a line break would be a command of its own on the wire."""
    assert why in subjects.problem(subject)


@pytest.mark.parametrize(
    ("pattern", "subject", "is_match"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.b.c", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c.d", True),
        ("a.>", "a", False),
        (">", "a.b.c", True),
        ("a.*.>", "a.b", False),
        ("a.*.>", "a.b.c", True),
        ("a*", "ab", False),
        ("a.b>", "a.bc", False),
        ("A", "a", False),
    ],
)
def test_subscriptions(pattern: str, subject: str, is_match: bool) -> None:
    """`*` is one whole token, a last `>` one or more."""
    assert subjects.matches(pattern, subject) is is_match


@given(st.lists(TOKENS, min_size=1, max_size=5), st.lists(st.sampled_from("ab"), min_size=1, max_size=5))
def test_a_match_by_definition(pattern: list[str], subject: list[str]) -> None:
    """Against the definition, token by token."""

    def by_definition(wanted: list[str], given: list[str]) -> bool:
        if wanted == [">"]:
            return bool(given)
        if not wanted or not given:
            return wanted == given
        return wanted[0] in ("*", given[0]) and by_definition(wanted[1:], given[1:])

    if ">" in pattern[:-1]:
        return  # NATS refuses such a subscription
    assert subjects.matches(".".join(pattern), ".".join(subject)) is by_definition(pattern, subject)
