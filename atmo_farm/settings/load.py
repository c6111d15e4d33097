"""The settings in force: flag, else environment, else file, else default, each with where it came from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from atmo_farm.errors import Position, Problem, UserFilesError
from atmo_farm.settings import file as settings_file
from atmo_farm.settings.keys import KEYS, Key
from atmo_farm.settings.model import DataSourceSettings, HandlerDefaults, Settings, Tracer

SYSTEM_FILE = Path("/etc/atmo-farm/atmo-farm.yaml")
PREFIX = "ATMO_FARM_"
CONFIG_VARIABLE = "ATMO_FARM_CONFIG"
_GROUPS = {"defaults": HandlerDefaults, "data_sources": DataSourceSettings, "tracer": Tracer}


@attrs.frozen
class Value:
    """One setting in force."""

    key: Key
    value: Any
    """As it stands in `Settings`."""
    text: str | None
    """As its source has it; None for a default."""
    origin: str
    """`flag --log-level`, `env ATMO_LOG_LEVEL`, `/etc/atmo-farm/atmo-farm.yaml:7`, or `default`."""
    position: Position


@attrs.frozen
class Loaded:
    """The settings, and how they came about."""

    settings: Settings
    values: tuple[Value, ...]
    """In the order of `KEYS`."""
    file: Path | None
    """The settings file that was read; None: there is none."""
    warnings: tuple[Problem, ...]


def load(
    environ: Mapping[str, str], flags: Mapping[str, str | None] | None = None, system_file: Path = SYSTEM_FILE
) -> Loaded:
    """Read all sources. `flags`: `--log-level` → text or None; `--config` names the settings file.

    An empty variable counts as unset. UserFilesError with every problem of the file and the variables.
    """
    flags = flags or {}
    file = _find_file(environ, flags, system_file)
    problems: list[Problem] = []
    entries: dict[str, settings_file.Entry] = {}
    if file is not None:
        try:
            entries = {entry.path: entry for entry in settings_file.read(file)}
        except UserFilesError as error:
            problems.extend(error.problems)
    values = []
    for key in KEYS:
        try:
            values.append(_value(key, environ, flags, entries))
        except UserFilesError as error:
            problems.extend(error.problems)
    if not problems:
        problems.extend(_conflicts(values))
    if problems:
        raise UserFilesError(problems)
    return Loaded(_build(values), tuple(values), file, tuple(_warnings(environ)))


def _find_file(environ: Mapping[str, str], flags: Mapping[str, str | None], system_file: Path) -> Path | None:
    named = flags.get("--config") or environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    try:
        system_file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # it may be there and out of reach: reading it says so
    return system_file


def _value(
    key: Key,
    environ: Mapping[str, str],
    flags: Mapping[str, str | None],
    entries: Mapping[str, settings_file.Entry],
) -> Value:
    flag = flags.get(key.flag) if key.flag else None
    base = Path()
    text: str | None
    if flag is not None:
        text, origin, position, name = flag, f"flag {key.flag}", Position("command line"), key.flag
    elif environ.get(key.environment):
        text, origin = environ[key.environment], f"env {key.environment}"
        position, name = Position("environment"), key.environment
    elif entry := entries.get(key.path):
        text, position, name = entry.text, entry.position, key.path
        origin, base = f"{position.file}:{position.line}", Path(position.file).parent
    else:
        return Value(key, _default(key), None, "default", Position("default"))
    try:
        return Value(key, key.parse(text, base), text, origin, position)
    except ValueError as error:
        what = str(error) if not key.secret else "is not accepted"
        raise UserFilesError([Problem(position, name, what)]) from error


def _default(key: Key) -> Any:
    owner: Any = Settings()
    for name in key.field.split("."):
        owner = getattr(owner, name)
    return owner


def _build(values: list[Value]) -> Settings:
    plain: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {name: {} for name in _GROUPS}
    for value in values:
        group, _, field = value.key.field.rpartition(".")
        (groups[group] if group else plain)[field] = value.value
    return Settings(**plain, **{name: _GROUPS[name](**fields) for name, fields in groups.items()})


def _conflicts(values: list[Value]) -> list[Problem]:
    """Pairs of settings of which the first must not be larger than the second."""
    by_path = {value.key.path: value for value in values}
    problems = []
    for smaller, larger in (
        ("defaults.pool.warm", "defaults.pool.max"),
        ("defaults.retry.initialDelay", "defaults.retry.maxDelay"),
    ):
        low, high = by_path[smaller], by_path[larger]
        if high.value is not None and low.value > high.value:
            guilty = high if low.text is None else low
            what = f"{smaller} ({low.value:g}) is larger than {larger} ({high.value:g}, {high.origin})"
            problems.append(Problem(guilty.position, guilty.key.path, what))
    return problems


def _warnings(environ: Mapping[str, str]) -> list[Problem]:
    """Misspelt variables (others may own ATMO_FARM_ variables, so only those that resemble a setting)."""
    known = {key.environment.removeprefix(PREFIX) for key in KEYS if not key.atmo} | {"CONFIG"}
    warnings = []
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)
        close = difflib.get_close_matches(rest, known, n=1, cutoff=0.75) if rest not in (name, *known) else []
        if close:
            what = f"is no setting of the farm; did you mean {PREFIX}{close[0]}?"
            warnings.append(Problem(Position("environment"), name, what, "warning"))
    return warnings
