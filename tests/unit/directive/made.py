"""Files made from the key tables: what a table's keys may hold, as plain Python values for YAML and JSON Schema."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st

from atmo_farm.directive.keys.kinds import Choice, Duration, Flag, Integer, Kind, Number, Size, Text
from atmo_farm.directive.keys.secret import OrReference, SecretText
from atmo_farm.directive.keys.shapes import Either, ListOf, MapOf, OneOrNamed, Refused, Table

REFERENCES = st.sampled_from(["env(NAME)", "credential(name)", "file(/etc/x)"])
WORDS = st.sampled_from(
    ["a", "hello", "upper", "db::get", "orders.new", "a.*", "/path/:id", "localhost:1", "off", "1", "env(X)", "é"]
)
FLAGS = st.booleans() | st.sampled_from(["yes", "Off", "TRUE"])
DURATIONS = st.sampled_from([1, 2.5, "250ms", "30s", "5m", "1h", "3"])
SIZES = st.sampled_from([65536, "64KiB", "1MiB", "65536"])


@st.composite
def values(draw: st.DrawFn, kind: Kind) -> Any:
    """A value that the kind takes by itself; what other keys demand of it is another matter."""
    return _value(draw, kind)


def _value(draw: st.DrawFn, kind: Any) -> Any:
    match kind:
        case Table():
            return {key.name: _value(draw, key.kind) for key in kind.keys if key.required or draw(_seldom())}
        case ListOf():
            return [_value(draw, kind.item) for _ in range(draw(st.integers(kind.least, 2)))]
        case MapOf():
            names = draw(st.lists(_matching(kind.name_pattern), max_size=2, unique=True))
            return {name: _value(draw, kind.value) for name in names}
        case Either():
            return _value(draw, kind.scalar if draw(st.booleans()) else kind.parts)
        case OneOrNamed():
            if draw(st.booleans()):
                return _value(draw, kind.table)
            return {name: _value(draw, kind.table) for name in draw(st.sampled_from([["a"], ["a", "default"]]))}
        case Text():
            return draw(_matching(kind.pattern) if kind.pattern else WORDS)
        case SecretText():
            return draw(WORDS | REFERENCES)
        case OrReference():
            return draw(REFERENCES) if draw(_seldom()) else _value(draw, kind.kind)
        case Choice():
            return draw(st.sampled_from(kind.options))
        case Integer():
            number = draw(st.integers(kind.low, kind.high))
            return str(number) if draw(st.booleans()) else number
        case Number():
            return draw(st.sampled_from([kind.low, kind.high, str(kind.high)]))
        case Flag():
            return draw(FLAGS)
        case Duration():
            return draw(DURATIONS)
        case Size():
            return draw(SIZES)
        case Refused():
            return None
    raise AssertionError(f"a kind without values: {kind}")


@cache
def _seldom() -> st.SearchStrategy[bool]:
    return st.sampled_from([True, False, False, False])


@cache
def _matching(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(pattern, fullmatch=True, alphabet=st.characters(min_codepoint=32, max_codepoint=126))


@st.composite
def mutated(draw: st.DrawFn, tree: Any, odd: st.SearchStrategy[Any]) -> Any:
    """The tree with one to three of its parts replaced, taken away, renamed or moved under another key."""
    random = draw(st.randoms(use_true_random=False))
    for _ in range(draw(st.integers(1, 3))):
        tree = _changed(tree, random, draw(odd))
    return tree


def _changed(tree: Any, random: Any, odd: Any) -> Any:
    if isinstance(tree, dict) and tree:
        keys, key = dict(tree), random.choice(sorted(tree, key=str))
        action = random.randrange(8)
        if action == 0:
            del keys[key]
        elif action == 1:
            keys[f"{key}x"[random.randrange(2) :]] = keys.pop(key)
        elif action == 2:
            keys[random.choice(sorted(tree, key=str))] = tree[key]
        elif action == 3:
            keys[key] = odd
        else:
            keys[key] = _changed(tree[key], random, odd)
        return keys
    if isinstance(tree, list) and tree:
        index, items = random.randrange(len(tree)), list(tree)
        action = random.randrange(6)
        if action == 0:
            del items[index]
        elif action == 1:
            items.append(items[index])
        else:
            items[index] = _changed(items[index], random, odd)
        return items
    return odd
