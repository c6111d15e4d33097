"""The keys of `steps`, and of `schedules`, which are little more."""

from __future__ import annotations

from atmo_farm.directive.keys.kinds import Choice, Flag, Integer, Text
from atmo_farm.directive.keys.shapes import Key, ListOf, MapOf, Refused, Table

STATE_KEY = Text("a key of the state")
_DECISION = Choice(("continue", "return"))

ON_ERR = Table(
    "OnErr",
    "what happens when a function answers with an error",
    (
        Key("any", _DECISION, "for every error; not beside `code`", default="`return`"),
        Key("code", MapOf(_DECISION, "an error code", r"0|-?[1-9][0-9]{0,9}"), "error code → what to do"),
        Key("other", _DECISION, "for codes that `code` does not name", default="`return`"),
    ),
)

_AS = Key("as", STATE_KEY, "the state key that takes the result", default="`fn` as written")
_WITH = Key("with", MapOf(STATE_KEY, "an alias"), "alias → state key: what the function sees under another name")
_ON_ERR = Key("onErr", ON_ERR, "what an error of the function does", default="`any: return`")
_FN = "the function: `name`, `namespace::name` or a whole `identifier#namespace::name@version`"

CALL = Table("Call", "a function of a group", (Key("fn", Text("a function's name"), _FN, True), _AS, _WITH, _ON_ERR))

STEP = Table(
    "Step",
    "one step: a function, or a group of functions that run at the same time",
    (
        Key("fn", Text("a function's name"), _FN),
        _AS,
        _WITH,
        _ON_ERR,
        Key(
            "group",
            ListOf(CALL, least=1),
            "functions that run at the same time and see the state from before the group",
        ),
        Key(
            "transaction",
            Flag(),
            "run the function's queries in one transaction",
            default="`false`",
        ),
        Key("forEach", Refused("was removed in Atmo 0.4.0; let the function itself loop"), "no longer there"),
    ),
)

EVERY = Table(
    "Every",
    "how often a schedule runs; the parts are added together",
    tuple(Key(unit, Integer(0, 10**9), unit) for unit in ("seconds", "minutes", "hours", "days")),
)

SCHEDULE = Table(
    "Schedule",
    "an entry of `schedules`",
    (
        Key("name", Text("a name"), "its name", True),
        Key("every", EVERY, "how often it runs", True),
        Key("state", MapOf(Text("a text", multiline=True), "a state key"), "the state that it starts with"),
        Key("steps", ListOf(STEP, least=1), "what runs, in this order", True),
    ),
)
