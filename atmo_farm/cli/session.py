"""What all verbs share: options, the settings in force, and how their results are shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs
import click

from atmo_farm import log
from atmo_farm.cli import env_file
from atmo_farm.errors import Problem
from atmo_farm.settings import Loaded, load

F = TypeVar("F", bound=Callable[..., Any])


class Decorator(Protocol):
    """Adds an option to a verb's function."""

    def __call__(self, function: F, /) -> F:
        """The same function."""


verb_settings: Any = {"context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100}}

EXIT_CODES = {
    0: "done (warnings too)",
    1: "problems in the application's or the settings' files",
    2: "wrong usage",
    3: "the farm cannot start: its folder is taken, something is not served, a connection is down",
    4: "no such farm, handler or function",
    5: "timed out",
    70: "internal error",
}


@attrs.define
class Session:
    """One run of the command line."""

    debug: bool = False
    """Whether an error shows its stack trace."""


@attrs.frozen
class InForce:
    """The settings, and the environment with what --env-file adds to it."""

    loaded: Loaded
    environ: Mapping[str, str]


def exit_codes(*codes: int, **others: str) -> str:
    """The paragraph of a help text; `others` replaces a code's text: `_1="the function failed"`."""
    lines = [f"  {code:<3} {others.get(f'_{code}', EXIT_CODES[code])}" for code in codes]
    return "\n".join(["\b", "Exit codes:", *lines])


def _set_debug(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    session = context.find_object(Session)
    if value and session is not None:
        session.debug = True


debug_option: Decorator = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the stack trace of an error."
)

env_file_option: Decorator = click.option(
    "--env-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read KEY=VALUE lines; a variable that is set already keeps its value.",
)

config_option: Decorator = click.option(
    "--config",
    metavar="FILE",
    help="The settings file.  [default: ATMO_FARM_CONFIG, else /etc/atmo-farm/atmo-farm.yaml]",
)


def settings_options(function: F) -> F:
    """The flags that set settings, as `start` and `config` take them; the function gets them all as keywords."""
    options = (
        click.option("--run-dir", metavar="DIR", help="Pid file and sockets."),
        click.option("--state-dir", metavar="DIR", help="Compiled modules and accepted generations."),
        config_option,
        click.option("--workers", metavar="N", help="Processes of each handler whose Directive entry sets none."),
        env_file_option,
        click.option(
            "--monitor-address", metavar="ADDRESS", help="Of metrics and health: HOST:PORT, unix:PATH or off."
        ),
        click.option("--log-level", type=click.Choice(["trace", "debug", "info", "warn", "error"])),
        click.option("--log-format", type=click.Choice(["text", "json"])),
        click.option("--app-name", metavar="NAME", help="What log lines call the application."),
        click.option("--watch", is_flag=True, help="Reload when the application's files have changed."),
        click.option(
            "--require-connections", is_flag=True, help="End with exit code 3 when a connection is down at the start."
        ),
        debug_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


def in_force(env_file_path: Path | None, flags: Mapping[str, Any]) -> InForce:
    """The settings of this run; `flags` are a verb's keywords (`log_level`). Their warnings go to standard error.

    UserFilesError with every problem of the settings file, the variables and the flags.
    """
    environ: Mapping[str, str] = dict(os.environ)
    if env_file_path is not None:
        environ = {**env_file.read(env_file_path), **environ}
    loaded = load(environ, {_flag(name): _text(value) for name, value in flags.items()})
    show_problems(loaded.warnings, err=True)
    return InForce(loaded, environ)


def show_problems(problems: Iterable[Problem], err: bool) -> None:
    """One line each."""
    for problem in problems:
        colour = "yellow" if problem.severity == "warning" else "red"
        place = str(problem.position)
        text = click.style(place, fg=colour) + str(problem).removeprefix(place)
        if err:
            say(text, level="warn" if problem.severity == "warning" else "error")
        else:
            click.echo(text)


def say(text: str, color: bool | None = None, level: str = "info") -> None:
    """A line on standard error, if it takes one: what cannot be told there must not change how a command ends."""
    try:
        click.echo(log.prefixed(text, level), err=True, color=color)
    except OSError:
        pass


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(value: Any) -> str | None:
    """A flag as text; a switch that was not given is not set, so that it does not beat the other sources."""
    return ("true" if value else None) if isinstance(value, bool) else value
