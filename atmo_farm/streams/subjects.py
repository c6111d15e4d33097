"""NATS subjects: tokens joined by dots; in a subscription `*` stands for one token and a last `>` for one or more."""

from __future__ import annotations

import re

LONGEST = 2048
"""Bytes of a subject that may be published: subject, reply and numbers must fit the server's control line (4,096)."""

_FORBIDDEN = re.compile(r"[\s\x00-\x1f\x7f]|^\.|\.$|\.\.|^$")
_WILDCARD_TOKEN = re.compile(r"(?:^|\.)[*>](?:\.|$)")


def problem(subject: str) -> str:
    """Why a message cannot be published on this subject; empty when it can."""
    if _FORBIDDEN.search(subject):
        return "a subject is tokens joined by dots, without blanks and empty tokens"
    if _WILDCARD_TOKEN.search(subject):
        return "a subject to publish on holds no wildcard"
    try:
        size = len(subject.encode())
    except UnicodeEncodeError:
        return "a subject is valid Unicode"
    return f"a subject has at most {LONGEST} bytes" if size > LONGEST else ""


def matches(pattern: str, subject: str) -> bool:
    """Whether a subscription to `pattern` gets what is published on `subject`."""
    if pattern == subject:
        return True
    wanted, given = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(given) > index
        if index >= len(given) or (token != "*" and token != given[index]):
            return False
    return len(wanted) == len(given)
