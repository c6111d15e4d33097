"""`steps`: from sections to the model, with everything checked that a step can refer to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from atmo_farm.directive import fqfn
from atmo_farm.directive.model import Call, OnErr, Runnable, Step
from atmo_farm.directive.report import Report, shown
from atmo_farm.directive.section import Section


@attrs.frozen
class Functions:
    """The application's functions, as steps may name them."""

    identifier: str
    """Empty where the Directive's is wrong: then a name may hold any, and the same with the version."""
    version: str
    runnables: Mapping[str, Runnable]
    """By `namespace::name`; also those that have problems of their own."""

    def find(self, name: str) -> str | None:
        """The key of the function that a step's `fn` names; None when there is none."""
        parsed = fqfn.parse(name)
        is_mine = parsed.is_of(self.identifier or parsed.identifier, self.version or parsed.version)
        return parsed.key if is_mine and parsed.key in self.runnables else None

    def missing(self, name: str, report: Report) -> str:
        """What to say of a name that `find` does not know."""
        parsed = fqfn.parse(name)
        if parsed.key in self.runnables:
            mine = f"`{self.identifier}` in version `{self.version}`"
            return f"{shown(name)} names another application or version; this one is {mine}"
        names = [*self.runnables, *(key.removeprefix("default::") for key in self.runnables)]
        near = report.hint(name, names)
        return f"there is no function {shown(name)}{near or '; give it a folder with a .runnable.yaml'}"


def steps(section: Section, functions: Functions, state: set[str], report: Report) -> tuple[Step, ...]:
    """The steps of a handler or schedule; `state` holds the keys it starts with and gets those that steps set."""
    result = []
    for step in section.sections("steps"):
        calls = _calls(step, functions, state, report)
        state.update(call.key for call in calls)
        if calls:
            is_group = step.is_written("group")
            transaction = step.get("transaction", False)
            if transaction and is_group:
                message = "a group has no transaction: its functions run at the same time"
                report.error(step.at("transaction"), step.key("transaction"), message)
            result.append(Step(tuple(calls), is_group, transaction, step.position))
    return tuple(result)


def _calls(step: Section, functions: Functions, state: set[str], report: Report) -> list[Call]:
    if step.is_written("fn") and step.is_written("group"):
        later = max("fn", "group", key=step.at)
        other = "group" if later == "fn" else "fn"
        report.error(step.at(later), step.key(later), f"a step has either `fn` or `group`, and `{other}` is there too")
        return []
    if step.is_written("group"):
        return _group(step, functions, state, report)
    if not step.is_written("fn") and not step.is_written("forEach"):
        report.error(step.position, step.path, "a step needs `fn` or `group`")
    call = _call(step, functions, state, report)
    return [call] if call else []


def _group(step: Section, functions: Functions, state: set[str], report: Report) -> list[Call]:
    for name in ("as", "with", "onErr"):
        if step.is_written(name):
            report.error(step.at(name), step.key(name), "belongs to a function: write it beside the `fn` in the group")
    calls: list[Call] = []
    for member in step.sections("group"):
        call = _call(member, functions, state, report)
        if call is None:
            continue
        if any(call.key == other.key for other in calls):
            message = f"two functions of this group store their results under {shown(call.key)}; one is lost; use `as`"
            report.warn(member.value_at("as" if member.is_written("as") else "fn"), member.path, message)
        calls.append(call)
    return calls


def _call(section: Section, functions: Functions, state: set[str], report: Report) -> Call | None:
    name = section.text("fn")
    if not name:
        return None
    function = functions.find(name)
    if function is None:
        report.error(section.value_at("fn"), section.key("fn"), functions.missing(name, report))
    with_ = section.section("with")
    aliases: dict[str, str] = dict(with_.values) if with_ else {}
    if with_:
        for alias, key in aliases.items():
            if key not in state:
                near = report.hint(key, state, "known here:") if state else "; the state is empty here"
                message = f"no step before this one sets {shown(key)}{near}"
                report.error(with_.value_at(alias), with_.key(alias), message)
    return Call(
        fn=name,
        function=function or fqfn.parse(name).key,
        key=section.text("as") or name,
        with_=aliases,
        on_err=_on_err(section.section("onErr"), report),
        position=section.position,
    )


def _on_err(section: Section | None, report: Report) -> OnErr:
    if section is None:
        return OnErr()
    codes = section.section("code")
    has_codes = section.is_written("code") and (codes is None or bool(codes.places))
    if section.is_written("any"):
        for name, is_there in (("code", has_codes), ("other", section.is_written("other"))):
            if is_there:
                later = max("any", name, key=section.at)
                report.error(section.at(later), section.key(later), f"`any` and `{name}` exclude each other")
                break
    elif section.is_written("other") and not has_codes:
        report.error(section.at("other"), section.key("other"), "`other` needs `code` beside it; alone, write `any`")
    default: Literal["continue", "return"] = "return"
    return OnErr(
        codes={int(code): decision for code, decision in codes.values.items()} if codes else {},
        other=section.get("any", section.get("other", default)),
    )
