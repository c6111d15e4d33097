"""`atmo-farm install-service`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from atmo_farm.cli.session import debug_option, exit_codes, in_force, say, show_problems, verb_settings
from atmo_farm.errors import CannotStart, UserFilesError

if TYPE_CHECKING:
    from atmo_farm.directive.connections import Reference
    from atmo_farm.tools.service.install import Step
    from atmo_farm.tools.service.place import Place


_WOULD = {"made": "would make", "wrote": "would write", "updated": "would update", "removed": "would remove"}


@click.command(
    "install-service",
    **verb_settings,
    epilog=exit_codes(0, 1, 2, 3, 70, _3="it may not or cannot be written, or the service is in use")
    + """

\b
Examples:
  sudo atmo-farm install-service /srv/shop.wasm.zip --dry-run
  sudo atmo-farm install-service /srv/shop --name shop
  atmo-farm install-service --user ./shop
  sudo atmo-farm install-service --name shop --remove""",
)
@click.argument("app", required=False, type=click.Path(path_type=Path))
@click.option("--user", is_flag=True, help="A service of this user, without root; else one of the system.")
@click.option("--name", default="", metavar="NAME", help="One of several services: atmo-farm@NAME.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--remove", is_flag=True, help="Take away what was written, except for what was changed since.")
@click.option(
    "--root",
    default="/",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write below this folder, for an image or a package; systemd is not told.",
)
@debug_option
def install_service(app: Path | None, user: bool, name: str, dry_run: bool, remove: bool, root: Path) -> None:
    """Have systemd run an application: write the unit, its settings and its environment file.

    APP is a bundle or a project folder; it is checked first, as `check` does. Done once more, it brings up to date what
    nobody has changed by hand. Nothing is started.
    """
    from atmo_farm.tools.service.place import place as find_place

    if remove == (app is not None):
        raise click.UsageError("--remove takes no APP" if remove else "which APP? (--remove takes none)")
    try:
        place = find_place(name, user, root.absolute(), os.environ)
    except ValueError as error:
        raise click.UsageError(f"--name: {error}") from error
    here = place.root == Path("/")
    if here and not user and not dry_run and os.geteuid() != 0:
        raise CannotStart("a service of the system is installed as root; use sudo, or --user for one of your own")
    if app is None:
        _remove(place, here, dry_run)
    else:
        _install(place, app, here, dry_run)


def _install(place: Place, app: Path, here: bool, dry_run: bool) -> None:
    from atmo_farm.tools.service import files, install
    from atmo_farm.tools.source import absolute

    source, executable = absolute(app), files.command()
    references = _checked(source, place)
    for path in (source, executable):
        if reason := files.unseen(path, place):
            say(f"warning: {path}: {reason}", level="warn")
    steps = install.install(place, files.files(place, executable, source, references), dry_run)
    _show(steps, dry_run)
    if not dry_run:
        _warn_of_settings(place, source)
    if all(step.done == "unchanged" for step in steps):
        click.echo("nothing to do: all is as it should be")
    elif here and any(step.changes for step in steps) and not dry_run:
        _tell_manager(place)
    for kind, where in (("env", place.environment), ("credential", place.credentials)):
        if needed := files.names(references, kind):
            click.echo(f"the application needs {', '.join(needed)} in {where}")
    if place.user:
        click.echo(f"start it, now and at each login: {place.control} enable --now {place.service}")
        click.echo("at each boot, without a login: loginctl enable-linger")
    else:
        click.echo(f"start it, now and at each boot: {place.control} enable --now {place.service}")


def _checked(source: Path, place: Place) -> tuple[Reference, ...]:
    """What the application refers to. UserFilesError with all problems that keep it from running, of it or of settings
    that are there already."""
    from atmo_farm.directive.references import references
    from atmo_farm.tools.check import check

    force = in_force(None, _settings_flag(place))
    checked = check(source, force.loaded.settings, force.environ)
    if checked.errors or checked.directive is None:
        raise UserFilesError(checked.problems)
    found = references(checked.directive)
    places = {(reference.position, reference.key) for reference in found}  # what they stand for, the service will know
    show_problems((one for one in checked.warnings if (one.position, one.key) not in places), err=True)
    return found


def _settings_flag(place: Place) -> dict[str, str]:
    file = place.real(place.settings)
    return {"config": str(file)} if file.exists() else {}


def _warn_of_settings(place: Place, source: Path) -> None:
    """Of what somebody has written there and the unit does not expect."""
    from atmo_farm.settings import load
    from atmo_farm.tools.service.unit import STOP_S

    settings = load({}, {"--config": str(place.real(place.settings))}).settings
    if settings.bundle_path != source:
        say(
            f"warning: {place.settings} has another app.bundlePath ({settings.bundle_path}); put {source} there",
            level="warn",
        )
    if settings.drain_deadline_s >= STOP_S:
        told = f"timeouts.drain is {settings.drain_deadline_s:g} s and the unit's TimeoutStopSec {STOP_S}"
        say(f"warning: {told}: set that to more with `{place.control} edit {place.service}`", level="warn")


def _remove(place: Place, here: bool, dry_run: bool) -> None:
    from atmo_farm.tools.service import install
    from atmo_farm.tools.service.manager import Manager

    if here and not dry_run and (state := Manager(place).in_use()):
        raise CannotStart(f"{place.service} is {state}; first: {place.control} disable --now {place.service}")
    steps = install.remove(place, dry_run)
    _show(steps, dry_run)
    if not steps:
        click.echo(f"nothing to do: {place.service} was not installed by this command")
    elif here and not dry_run:
        _tell_manager(place)


def _show(steps: tuple[Step, ...], dry_run: bool) -> None:
    for step in steps:
        done = _WOULD.get(step.done, step.done) if dry_run else step.done
        click.echo(f"{done} {step.path}" + (f": {step.why}" if step.why else ""))


def _tell_manager(place: Place) -> None:
    from atmo_farm.tools.service.manager import Manager

    manager = Manager(place)
    if not manager.is_there:
        say("systemctl is not here: the files are written, and nobody was told")
    elif problem := manager.read_units_again():
        say(f"systemd was not told of the unit: {problem}; do it with {place.control} daemon-reload")
    else:
        click.echo("systemd has read the unit")
