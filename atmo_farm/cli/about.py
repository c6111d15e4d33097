"""The verbs about the farm itself: `config`, `version`, `completion`."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from atmo_farm import __version__
from atmo_farm.cli.session import debug_option, exit_codes, in_force, settings_options, verb_settings
from atmo_farm.settings import Value
from atmo_farm.units import format_duration, format_size


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 1, 2, 70)
    + """

\b
Where a value is from: flag --NAME, env NAME, FILE:LINE, or default; the first of these that sets it holds.

\b
Examples:
  atmo-farm config
  atmo-farm config --config conf/atmo-farm.yaml --log-level debug
  atmo-farm config --json | jq '.["log.level"]'""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@settings_options
def config(as_json: bool, env_file: Path | None, **flags: Any) -> None:
    """Print each of the farm's settings in force, and where it came from."""
    values = in_force(env_file, flags).loaded.values
    if as_json:
        rows = {value.key.path: {"value": _json_value(value), "origin": value.origin} for value in values}
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    shown = [(value.key.path, _shown(value), value.origin) for value in values]
    key_width, value_width = (max(len(row[column]) for row in shown) for column in (0, 1))
    for key, text, origin in shown:
        colour = "bright_black" if origin == "default" else "green"
        click.echo(f"{key:{key_width}}  {text:{value_width}}  {click.style(origin, fg=colour)}")


@click.command(**verb_settings, epilog=exit_codes(0, 2))
@debug_option
def version() -> None:
    """Print the versions of the farm and of what it stands on."""
    from importlib.metadata import version as version_of

    click.echo(f"atmo-farm {__version__}")
    click.echo(f"Python {platform.python_version()}")
    for package in ("wasmtime", "nats-py", "uvloop"):
        click.echo(f"{package} {version_of(package)}")


@click.command(
    **verb_settings,
    epilog="""\b
Examples:
  atmo-farm completion bash > ~/.local/share/bash-completion/completions/atmo-farm
  atmo-farm completion zsh > ~/.zfunc/_atmo-farm
  atmo-farm completion fish > ~/.config/fish/completions/atmo-farm.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes this command in a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "atmo-farm", "_ATMO_FARM_COMPLETE").source())


def _shown(value: Value) -> str:
    """The value as one would write it in the settings file."""
    if value.value in (None, ""):
        return "-"
    if value.key.secret:
        return "(hidden)"
    if isinstance(value.value, bool):
        return str(value.value).lower()
    if value.key.is_duration:
        return format_duration(value.value)
    if value.key.is_size:
        return format_size(value.value)
    return f"{value.value:g}" if isinstance(value.value, float) else str(value.value)


def _json_value(value: Value) -> object:
    """Durations in seconds, sizes in bytes."""
    if value.key.secret and value.value:
        return "(hidden)"
    return str(value.value) if isinstance(value.value, Path) else value.value
