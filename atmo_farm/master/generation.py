"""A generation: one accepted application, as the farm runs it; and the folder that keeps the last ones.

    state/generations/7.zip     the application as a bundle
    state/generations/7.json    its checksum, when and why it was accepted, where it came from and how that looked
                                (`directive.footprint`), what was different,
                                why it was refused after all, which older one it repeats

The master, its children and every respawn read only these, never the user's files.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from atmo_farm import clock
from atmo_farm.directive import Application, load
from atmo_farm.directive.build import write_bundle
from atmo_farm.directive.model import Directive, Handler
from atmo_farm.errors import AtmoFarmError, NotFound
from atmo_farm.ipc.cards import Kind
from atmo_farm.master.role import MONITOR, PROXY, Role
from atmo_farm.settings import HandlerDefaults

if TYPE_CHECKING:
    from atmo_farm.runtime.modules import CompiledModule

KEPT = 5
"""Bundles: so far back a rollback goes."""

RECORDS = 100
"""What is known of those before them: the history."""

CHANGES_KEPT = 4000
"""Characters of what was different."""

_OURS = r"\.?([0-9]+)\.(?:zip|json)(?:\.unfinished(?:\.[0-9]+)?)?"
"""Names of bundles and records, also of those that a helper which was killed has left half written."""


@attrs.frozen
class Generation:
    """One accepted application, ready to be run."""

    number: int
    directive: Directive
    """With every reference resolved, as they stood when the generation was accepted."""
    modules: Mapping[str, CompiledModule]
    """`namespace::name` → its module, compiled."""
    repeats: int = 0
    """The older generation that it was made of by a rollback, and that holds until the next reload; else 0."""

    @property
    def note(self) -> str:
        """What should not be forgotten about it; empty: nothing."""
        return f"rolled back to generation {self.repeats}, until the next reload" if self.repeats else ""

    def roles(self) -> tuple[Role, ...]:
        """The workers that this application wants: a consumer for each stream handler, the proxy before them if any
        function asks for data, and the monitor, which every farm has."""
        consumers = tuple(
            Role(Kind.CONSUMER, handler.name, handler.workers, handler, self._asks_for_data(handler))
            for handler in self.directive.handlers
            if handler.type == "stream"
        )
        proxy = (PROXY,) if any(role.uses_proxy for role in consumers) else ()
        return (*proxy, *consumers, MONITOR)

    def recipe(self, role: Role) -> tuple[Any, ...]:
        """All that decides what a worker of the role does: two equal recipes need no new process.

        Neither the application's version nor the number of workers is in it.
        """
        running, handler = self.directive, role.handler
        data = (running.queries, running.connections.databases, running.connections.redis)
        if role.is_monitor:
            return ()
        if handler is None:
            return running.identifier, data
        functions = sorted({call.function for step in handler.steps for call in step.calls})
        return (
            attrs.evolve(handler, workers=1),
            running.identifier,
            running.capabilities,
            running.authentication,
            data if role.uses_proxy else (),
            running.connections.nats.get(handler.connection) if handler.source == "nats" else None,
            running.connections.kafka.get(handler.connection) if handler.source == "kafka" else None,
            tuple((self.modules[function].sha256, self.modules[function].interface) for function in functions),
        )

    def missing_modules(self, role: Role) -> list[Path]:
        """Compiled modules of the role's handler that are no longer there."""
        functions = {call.function for step in role.handler.steps for call in step.calls} if role.handler else set()
        files = [path for function in functions for path in self.modules[function].files]
        return [path for path in files if not os.path.exists(path)]  # noqa: PTH110 - never raises, unlike Path's

    def _asks_for_data(self, handler: Handler) -> bool:
        functions = {call.function for step in handler.steps for call in step.calls}
        return any(self.modules[function].asks_for_data for function in functions)


class Generations:
    """The folder of the last generations."""

    def __init__(self, state: Path):
        self.state = state
        """The farm's state folder."""
        self._folder = state / "generations"

    def write(
        self,
        application: Application,
        cause: str,
        source: Path,
        after: int = 0,
        changes: str = "",
        repeats: int = 0,
        footprint: str = "",
    ) -> int:
        """Keep an accepted application and return its number: whole or not at all, on the disk when this returns.

        `after`: the generation in force, whose number counts as used even if its files are gone. `footprint`: of the
        source before it was read.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        number = max((number for number, _ in self._files()), default=0)
        number = max(number, after) + 1
        unfinished = self._folder / f"{number}.zip.unfinished"
        write_bundle(application, unfinished)
        bundle = unfinished.read_bytes()
        record = {
            "generation": number,
            "identifier": application.directive.identifier,
            "app_version": application.directive.app_version,
            "time": datetime.datetime.fromtimestamp(clock.wall(), datetime.UTC).isoformat(timespec="milliseconds"),
            "cause": cause,
            "source": str(source),
            "footprint": footprint,
            "changes": changes[:CHANGES_KEPT],
            "repeats": repeats,
            "sha256": hashlib.sha256(bundle).hexdigest(),
        }
        _settle(unfinished, self.bundle(number))
        self._write_record(number, record)
        return number

    def load(self, number: int, defaults: HandlerDefaults) -> Application:
        """A kept application; AtmoFarmError if its bundle is not what was written."""
        return load(self.checked(number), defaults)

    def checked(self, number: int) -> Path:
        """The bundle of a kept application; AtmoFarmError if it is not what was written."""
        path = self.bundle(number)
        try:
            expected = json.loads(self._record(number).read_bytes())["sha256"]
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AtmoFarmError(f"generation {number} cannot be read: {error}; reload makes a new one") from error
        if found != expected:
            raise AtmoFarmError(
                f"generation {number} was changed after it was accepted ({path}); reload makes a new one"
            )
        return path

    def history(self) -> list[dict[str, Any]]:
        """The records, the newest first; `kept`: its bundle is there, so a rollback can go back to it."""
        numbers = {number for number, path in self._files() if path == self._record(number)}
        found = [(number, self._read_record(number)) for number in sorted(numbers, reverse=True)]
        return [{**record, "generation": number, "kept": self.bundle(number).exists()} for number, record in found]

    def earlier(self, in_force: int, wanted: int) -> int:
        """To which generation a rollback from `in_force` goes: `wanted`, or, if that is 0, the newest that was in force
        before it. NotFound if there is none, or its bundle is not kept."""
        kept = [record["generation"] for record in self.history() if record["kept"]]
        if wanted:
            if wanted not in kept:
                raise NotFound(f"generation {wanted} is not kept; there is {', '.join(map(str, sorted(kept)))}")
            return wanted
        before = self.repeats(in_force) or in_force
        found = [number for number in kept if number < before and not self.repeats(number)]
        if not found:
            raise NotFound(f"no generation before {before} is kept")
        return int(max(found))

    def held(self) -> int:
        """The generation that a start has to begin with, because of a rollback; else 0."""
        last = next((record for record in self.history() if "refused" not in record), {"generation": 0, "kept": False})
        number = int(last["generation"])
        return number if last["kept"] and self.repeats(number) else 0

    def repeats(self, number: int) -> int:
        """Of which older generation this one is the repetition; else 0."""
        found: Any = self._read_record(number).get("repeats")
        return int(found) if isinstance(found, int) else 0

    def refuse(self, number: int, reason: str) -> None:
        """A generation that did not get ready: its record says so, its bundle goes."""
        record = json.loads(self._record(number).read_bytes())
        self._write_record(number, {**record, "refused": reason})
        self.bundle(number).unlink(missing_ok=True)

    def prune(self, in_force: int) -> None:
        """Remove all but the last bundles, the last records, and what belongs to the one in force."""
        files = self._files()
        bundles = sorted({number for number, path in files if path == self.bundle(number)})
        numbers = sorted({number for number, _ in files})
        kept = {in_force, *bundles[-KEPT:], *numbers[-KEPT:]}
        for number, path in files:
            if number not in kept and not (path == self._record(number) and number in numbers[-RECORDS:]):
                path.unlink(missing_ok=True)

    def bundle(self, number: int) -> Path:
        """Where its application is."""
        return self._folder / f"{number}.zip"

    def _record(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _read_record(self, number: int) -> dict[str, Any]:
        """Empty where it is damaged, or pruned meanwhile."""
        try:
            record = json.loads(self._record(number).read_bytes())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write_record(self, number: int, record: Mapping[str, object]) -> None:
        unfinished = self._folder / f"{number}.json.unfinished"
        unfinished.write_text(json.dumps(record, indent=1) + "\n")
        _settle(unfinished, self._record(number))

    def _files(self) -> list[tuple[int, Path]]:
        there = self._folder.iterdir() if self._folder.is_dir() else ()
        found = ((re.fullmatch(_OURS, path.name), path) for path in there if path.is_file())
        return [(int(match[1]), path) for match, path in found if match]


def _settle(unfinished: Path, path: Path) -> None:
    """Give a file that is fully written its name, so that a crash leaves the old state or the new one."""
    _sync(unfinished)
    unfinished.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
