"""The verbs on a user's project: `check`, `build`, `schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atmo_farm.cli.session import (
    config_option,
    debug_option,
    env_file_option,
    exit_codes,
    in_force,
    show_problems,
    verb_settings,
)

if TYPE_CHECKING:
    from atmo_farm.tools.check import Checked


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 1, 2, 70, _0="nothing is wrong (there may be warnings)")
    + """

\b
Examples:
  atmo-farm check
  atmo-farm check runnables.wasm.zip --env-file shop.env --connect
  atmo-farm check ./shop --json | jq '.problems[] | select(.severity == "error")'""",
)
@click.argument("app", required=False, type=click.Path(path_type=Path))
@click.option("--connect", is_flag=True, help="Try every connection, and prepare every query on its database.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@env_file_option
@config_option
@debug_option
def check(app: Path | None, connect: bool, as_json: bool, env_file: Path | None, config: str | None) -> int:
    """Say everything that is wrong with an application.

    APP is a bundle or a project folder; without it ATMO_BUNDLE_PATH, else ./runnables.wasm.zip, else this folder. Its
    modules are compiled, too. Warnings tell what this farm does not serve yet, and what is missing on this machine.
    """
    from atmo_farm.tools import check as job
    from atmo_farm.tools.source import find

    force = in_force(env_file, {"config": config})
    source = find(app, force.loaded.settings)
    checked = job.check(source, force.loaded.settings, force.environ, connect)
    if as_json:
        click.echo(json.dumps(_as_json(source, checked), indent=2, ensure_ascii=False))
    else:
        show_problems(checked.problems, err=False)
        for note in checked.notes:
            click.echo(note)
        click.echo(_summary(checked))
    return 1 if checked.errors else 0


@click.command(
    **verb_settings,
    epilog=exit_codes(0, 1, 2, 3, 70, _3="the bundle cannot be written")
    + """

\b
Examples:
  atmo-farm build
  atmo-farm build ./shop -o dist/shop.wasm.zip""",
)
@click.argument("app", default=".", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    default="runnables.wasm.zip",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the bundle goes.",
)
@env_file_option
@config_option
@debug_option
def build(app: Path, output: Path, env_file: Path | None, config: str | None) -> None:
    """Write a bundle: one file with the whole application, that Atmo could run as well.

    APP is a project folder whose modules are built; without it this folder.
    """
    from atmo_farm.tools import build as job
    from atmo_farm.tools.source import absolute

    force = in_force(env_file, {"config": config})
    built = job.build(absolute(app), output, force.loaded.settings, force.environ)
    show_problems(built.warnings, err=True)
    click.echo(f"{built.path}: {_count(built.functions, 'function')}, {built.size:,} bytes")


@click.command(
    **verb_settings,
    epilog="""\b
Example:
  atmo-farm schema > directive.schema.json""",
)
@debug_option
def schema() -> None:
    """Print the JSON Schema of Directive.yaml, for editors."""
    from atmo_farm.directive import schema as directive_schema

    click.echo(json.dumps(directive_schema.json_schema(), indent=2, ensure_ascii=False))


def _as_json(source: Path, checked: Checked) -> dict[str, object]:
    found = checked.directive
    return {
        "ok": not checked.errors,
        "app": str(source),
        "identifier": found.identifier if found else None,
        "appVersion": found.app_version if found else None,
        "problems": [
            {
                "file": problem.position.file,
                "line": problem.position.line,
                "column": problem.position.column,
                "key": problem.key,
                "severity": problem.severity,
                "message": problem.message,
            }
            for problem in checked.problems
        ],
        "notes": [
            {
                "file": note.position.file,
                "line": note.position.line,
                "column": note.position.column,
                "key": note.key,
                "message": note.message,
            }
            for note in checked.notes
        ],
    }


def _summary(checked: Checked) -> str:
    found = checked.directive
    warnings = f", {_count(len(checked.warnings), 'warning')}" if checked.warnings else ""
    if checked.errors or found is None:
        return click.style(f"{_count(len(checked.errors), 'problem')}{warnings}", fg="red")
    counts = f"{_count(len(found.handlers), 'handler')}, {_count(len(found.runnables), 'function')}{warnings}"
    return f"{click.style('ok', fg='green')}: {found.identifier} {found.app_version}: {counts}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
