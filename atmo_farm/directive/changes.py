"""What a reload would change: handlers, functions, connections and the rest, by name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import attrs

from atmo_farm.directive.application import Application
from atmo_farm.directive.model import Handler


@attrs.frozen
class Names:
    """Names of one kind of thing, each in order."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@attrs.frozen
class Diff:
    """The difference between two applications; positions in files do not count."""

    handlers: Names = Names()
    """Changed: its own keys, a function that it runs, a connection that it uses, credentials or capabilities."""
    functions: Names = Names()
    """Changed: another module or interface."""
    connections: Names = Names()
    """As `nats.default`, `kafka.eu`, `redis`, `database.default`."""
    schedules: Names = Names()
    queries: Names = Names()
    static_files: Names = Names()
    application: tuple[str, ...] = ()
    """What changed of the application as a whole: `identifier`, `app_version`, `capabilities`, …"""

    @property
    def empty(self) -> bool:
        """Whether the two are the same."""
        return not any(attrs.astuple(self, recurse=False))

    def describe(self) -> str:
        """One line for people, like `handlers: +new, -old, ~nats-orders; functions: ~default::hello`."""
        parts = []
        for field in attrs.fields(Diff):
            names = getattr(self, field.name)
            kind = field.name.replace("_", " ")
            if isinstance(names, tuple) and names:
                parts.append(f"{kind}: {', '.join(names)}")
            elif isinstance(names, Names) and names:
                signs = (("+", names.added), ("-", names.removed), ("~", names.changed))
                parts.append(f"{kind}: " + ", ".join(sign + name for sign, group in signs for name in group))
        return "; ".join(parts) or "no change"


def diff(old: Application, new: Application) -> Diff:
    """What is different in `new`; give both resolved, so that a changed secret counts as a changed connection."""
    before, after = old.directive, new.directive
    whole = ("identifier", "app_version", "atmo_version", "headless", "capabilities", "authentication")
    application = tuple(name for name in whole if getattr(before, name) != getattr(after, name))
    return Diff(
        handlers=_names(_handlers(old), _handlers(new)),
        functions=_names(_functions(old), _functions(new)),
        connections=_names(_connections(old), _connections(new)),
        schedules=_names(*({item.name: item for item in side.schedules} for side in (before, after))),
        queries=_names(*({item.name: item for item in side.queries} for side in (before, after))),
        static_files=_names(_statics(old), _statics(new)),
        application=application,
    )


def _names(old: Mapping[str, Any], new: Mapping[str, Any]) -> Names:
    return Names(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    )


def _handlers(application: Application) -> dict[str, Any]:
    """All that a handler's processes depend on."""
    directive = application.directive
    functions, connections = _functions(application), _connections(application)
    shared = (directive.identifier, directive.capabilities, directive.authentication)

    def depends_on(handler: Handler) -> tuple[Any, ...]:
        calls = {call.function for step in handler.steps for call in step.calls}
        used = {f"{handler.source}.{handler.connection}"}
        if handler.respond_to:
            used.add(f"{handler.respond_to.source}.{handler.respond_to.connection}")
        return (
            handler,
            shared,
            [functions.get(name) for name in sorted(calls)],
            [connections.get(name) for name in sorted(used)],
        )

    return {handler.name: depends_on(handler) for handler in directive.handlers}


def _functions(application: Application) -> dict[str, Hashable]:
    return {
        runnable.key: (runnable.interface, application.digest(runnable.key))
        for runnable in application.directive.runnables
    }


def _connections(application: Application) -> dict[str, Any]:
    connections = application.directive.connections
    named: dict[str, Any] = {f"nats.{name}": value for name, value in connections.nats.items()}
    named |= {f"kafka.{name}": value for name, value in connections.kafka.items()}
    named |= {f"database.{name}": value for name, value in connections.databases.items()}
    return named | ({"redis": connections.redis} if connections.redis else {})


def _statics(application: Application) -> dict[str, bytes]:
    return {name: application.static(name) for name in application.static_names()}
