"""`runnables` of a bundle and `.runnable.yaml` files: from sections to the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import attrs

from atmo_farm.directive.fqfn import DEFAULT_NAMESPACE, Fqfn
from atmo_farm.directive.keys.files import FUNCTION_NAME
from atmo_farm.directive.model import Runnable
from atmo_farm.directive.report import Report, shown
from atmo_farm.directive.section import Section


def runnables(
    sections: Iterable[tuple[Section, str]], identifier: str, version: str, report: Report
) -> dict[str, Runnable]:
    """`namespace::name` → runnable, in the order of these keys, from (section, default name) pairs."""
    found: dict[str, Runnable] = {}
    for section, folder in sections:
        name = section.text("name") or folder
        if not re.fullmatch(FUNCTION_NAME, name, re.ASCII):
            if not section.is_written("name"):
                why = f", and the folder's name {shown(name)} cannot be a function's" if name else ""
                report.error(section.at("name"), section.key("name"), f"is missing{why}")
            continue
        namespace = section.text("namespace") or DEFAULT_NAMESPACE
        runnable = Runnable(
            name=name,
            namespace=namespace,
            lang=section.text("lang"),
            version=section.text("version") or version,
            fqfn=str(Fqfn(identifier, namespace, name, version)),
            interface=section.get("interface", "runnable"),
            position=section.at("name"),
        )
        other = found.get(runnable.key)
        if other:
            message = f"there are two functions `{runnable.key}`; the other is in {other.position}"
            report.error(section.at("name"), section.key("name"), message)
        else:
            found[runnable.key] = runnable
    return _with_modules(dict(sorted(found.items())), report)


def _with_modules(found: dict[str, Runnable], report: Report) -> dict[str, Runnable]:
    """Give each its module's file name: with the namespace only where two functions share a name."""
    names = Counter(runnable.name for runnable in found.values())
    taken: dict[str, str] = {}
    for key, runnable in found.items():
        shares = names[runnable.name] > 1
        module = f"{runnable.namespace}.{runnable.name}.wasm" if shares else f"{runnable.name}.wasm"
        if module in taken:
            message = f"in a bundle its module would have the same file name as that of `{taken[module]}`; rename one"
            report.error(runnable.position, "name", message)
        taken[module] = key
        found[key] = attrs.evolve(runnable, module=module)
    return found
