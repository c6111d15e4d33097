"""Subjects, topics and routes: what is legal, what matches what, which routes exclude each other."""

from __future__ import annotations

import re

import attrs

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)


def subject_problem(subject: str) -> str:
    """What is wrong with a NATS subject that may hold wildcards; empty when it is legal."""
    tokens = subject.split(".")
    if re.search(r"\s", subject):
        return "a subject holds no blanks"
    if not all(tokens):
        return "a subject is made of parts joined by single dots"
    if any(len(token) > 1 and (token.startswith(">") or token.endswith(">")) for token in tokens):
        return "`>` stands alone, as the last part"
    if ">" in tokens[:-1]:
        return "`>` can only be the last part"
    return ""


def topic_problem(topic: str) -> str:
    """What is wrong with a Kafka topic; empty when it is legal."""
    if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        return "a topic is 1 to 249 letters, digits, `.`, `_` and `-`"
    return ""


def has_wildcard(subject: str) -> bool:
    """Whether a subject names more than one."""
    return any(token in ("*", ">") for token in subject.split("."))


def subject_matches(pattern: str, subject: str) -> bool:
    """Whether a subscription to the pattern gets all messages of the subject, which may hold wildcards itself."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":
            return len(given) > index
        if index >= len(given) or given[index] == ">" or token not in ("*", given[index]):
            return False
    return len(wanted) == len(given)


def subjects_overlap(one: str, other: str) -> bool:
    """Whether there may be messages that subscriptions to both get."""
    tokens, others = one.split("."), other.split(".")
    for pair in zip(tokens, others, strict=False):
        if ">" in pair:
            return True
        if "*" not in pair and pair[0] != pair[1]:
            return False
    return len(tokens) == len(others)


def path_problem(path: str) -> str:
    """What is wrong with a route's path, by httprouter's rules; empty when it is legal."""
    if not path.startswith("/"):
        return "a path starts with `/`"
    segments = path.split("/")[1:]
    for index, segment in enumerate(segments):
        if segment in (":", "*"):
            return f"`{segment}` needs a name after it"
        if re.search(r"[:*]", segment[1:]):
            return "a part holds one `:name` or `*name`, and only at its start"
        if segment.startswith("*") and index != len(segments) - 1:
            return "`*name` can only be the last part"
    names = [segment[1:] for segment in segments if segment.startswith((":", "*"))]
    if len(set(names)) != len(names):
        return "two parts have the same name"
    return ""


@attrs.define(eq=False)
class Routes:
    """The routes of one method, as a tree of the parts of their paths."""

    _first: str = ""
    """The path that made this node."""
    _ends: str = ""
    """The path that ends at this node."""
    _parts: dict[str, Routes] = attrs.field(factory=dict)
    _wildcard: str = ""
    """The one of `parts` that is `:name` or `*name`."""

    def add(self, path: str) -> str:
        """Take a path in; or give the path that is there and cannot stand beside it, and change nothing."""
        node = self
        parts = path.split("/")[1:]
        for part in parts:
            conflict = node._conflict(part)
            if conflict:
                return conflict
            following = node._parts.get(part)
            if following is None:
                break
            node = following
        else:
            if node._ends:
                return node._ends
        node = self
        for part in parts:
            if part.startswith((":", "*")):
                node._wildcard = part
            node = node._parts.setdefault(part, Routes(path))
        node._ends = path
        return ""

    def _conflict(self, part: str) -> str:
        """A path whose next part, after the same beginning, excludes this one."""
        if part in self._parts or not self._parts:
            return ""
        if self._wildcard and (self._wildcard.startswith("*") or part.startswith(":")):
            return self._parts[self._wildcard]._first
        return next(iter(self._parts.values()))._first if part.startswith("*") else ""
